"""The commit before this one, which an upgrade begins with."""

import io
import subprocess
import tarfile
from pathlib import Path

from tests.cluster.processes import REPOSITORY


def write_commit_before(folder: Path, repository: Path = REPOSITORY) -> None:
    """Writes the repository as the commit before this one has it to a folder.

    Raises:
        RuntimeError: That commit is not here and cannot be fetched.
    """

    def git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["git", *arguments], cwd=repository, capture_output=True, check=False)

    archive = ("archive", "--format=tar", "HEAD~1")
    done = git(*archive)
    if done.returncode != 0:
        git("fetch", "--quiet", "--deepen=1")
        done = git(*archive)
    if done.returncode != 0:
        raise RuntimeError(
            "the commit before this one is upgraded from, and this clone does not reach back to it:"
            f" git fetch --deepen=1 ({done.stderr.decode().strip()})"
        )
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        tar.extractall(folder, filter="data")
