"""Helm, and the chart as the tests install it."""

import io
import os
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

from tests.cluster import images
from tests.cluster.binaries import binary
from tests.cluster.processes import REPOSITORY, output

CHART = REPOSITORY / "charts" / "aligntune-operator"
RELEASE = "aligntune-operator"
NAMESPACE = "aligntune-system"

BUILT_IMAGES = {
    "image.tag": images.OPERATOR.rpartition(":")[2],
    "trainer.trlImage": "aligntune/trainer:test",
    "trainer.unslothImage": "aligntune/trainer:test-unsloth",
}
"""Values that name the images of the test cluster."""


def helm(*arguments: str | Path, kubeconfig: Path | None = None) -> str:
    """What helm prints; CalledProcessError carries its stderr when it fails."""
    env = {**os.environ, "KUBECONFIG": str(kubeconfig or os.devnull)}
    return output(binary("helm"), *arguments, env=env)


def sets(values: Mapping[str, object]) -> list[str]:
    """Values as helm's options."""
    return [f"--set={name}={value}" for name, value in values.items()]


def chart_before(folder: Path, repository: Path = REPOSITORY) -> Path:
    """The chart as the commit before this one has it, written to a folder.

    Raises:
        RuntimeError: That commit is not here and cannot be fetched.
    """

    def git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["git", *arguments], cwd=repository, capture_output=True, check=False)

    path = CHART.relative_to(REPOSITORY)
    archive = ("archive", "--format=tar", "HEAD~1", str(path))
    done = git(*archive)
    if done.returncode != 0:
        git("fetch", "--quiet", "--deepen=1")
        done = git(*archive)
    if done.returncode != 0:
        raise RuntimeError(
            "the chart of the commit before this one is upgraded from, and this clone does not"
            f" reach back to it: git fetch --deepen=1 ({done.stderr.decode().strip()})"
        )
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return folder / path
