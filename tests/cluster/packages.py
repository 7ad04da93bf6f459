"""Programs that the machine has to bring."""

import os
import shutil
import subprocess

DEBIAN_PACKAGES = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "/usr/lib/cni/ptp": "containernetworking-plugins",
    "iptables": "iptables",
    "ip": "iproute2",
    "conntrack": "conntrack",
    "debootstrap": "debootstrap",
    "buildah": "buildah",
    "faketime": "faketime",
}
"""What a node, its images and its faults need -> Debian's package for it."""


def missing() -> list[str]:
    """Those of the node's programs that this machine lacks."""
    return [program for program in DEBIAN_PACKAGES if shutil.which(program) is None]


def install() -> None:
    """Installs Debian's packages for a node."""
    if os.geteuid() != 0:
        raise RuntimeError("Installing packages needs root: run this command with sudo.")
    environment = {
        **os.environ,
        "DEBIAN_FRONTEND": "noninteractive",
        # Has systemctl leave the running system alone: the cluster starts a containerd of its own.
        "SYSTEMD_OFFLINE": "1",
    }
    packages = sorted(set(DEBIAN_PACKAGES.values()))
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
        subprocess.run(["apt-get", *command], env=environment, check=True)


def require() -> None:
    """Raises RuntimeError, with the way to get them, if any of the node's programs is missing."""
    if programs := missing():
        packages = " ".join(sorted({DEBIAN_PACKAGES[program] for program in programs}))
        raise RuntimeError(
            f"{', '.join(programs)}: not found on this machine; as root, run "
            f"python -m tests.cluster install, or apt-get install {packages}."
        )
