"""kubectl of the cluster's own version."""

import subprocess
from pathlib import Path

from tests.cluster.binaries import binary
from tests.cluster.processes import output


def kubectl(kubeconfig: Path, *arguments: str, stdin: str | None = None) -> str:
    """What kubectl prints; CalledProcessError carries its stderr when it fails."""
    return output(binary("kubectl"), "--kubeconfig", kubeconfig, *arguments, stdin=stdin)


def succeeds(kubeconfig: Path, *arguments: str) -> bool:
    """Whether that kubectl command works at present."""
    try:
        kubectl(kubeconfig, *arguments)
    except subprocess.CalledProcessError:
        return False
    return True
