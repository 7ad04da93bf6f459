"""The commit before this one, which an upgrade begins with."""

import subprocess
from pathlib import Path

import pytest

from tests.cluster.before import write_commit_before

CHART = Path("charts/aligntune-operator/Chart.yaml")


def git(where: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.com")
    subprocess.run(["git", *identity, *arguments], cwd=where, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one commit."""
    folder = tmp_path / "origin"
    folder.mkdir()
    git(folder, "init")
    return committed(folder, "first")


def committed(repository: Path, chart: str) -> Path:
    file = repository / CHART
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(chart)
    git(repository, "add", ".")
    git(repository, "commit", "--message", chart)
    return repository


def test_it_is_the_one_before_the_last_commit(repository: Path, tmp_path: Path) -> None:
    committed(repository, "second")
    write_commit_before(tmp_path / "out", repository)
    assert (tmp_path / "out" / CHART).read_text() == "first"


def test_a_shallow_clone_fetches_it(repository: Path, tmp_path: Path) -> None:
    committed(repository, "second")
    git(tmp_path, "clone", "--depth=1", f"file://{repository}", "clone")
    write_commit_before(tmp_path / "out", tmp_path / "clone")
    assert (tmp_path / "out" / CHART).read_text() == "first"


def test_where_there_is_none_it_is_said(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="does not reach back to it: git fetch --deepen=1"):
        write_commit_before(tmp_path / "out", repository)
