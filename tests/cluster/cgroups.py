"""The control groups under which the node's pods run, in every hierarchy that is mounted."""

from pathlib import Path

from tests.cluster.processes import wait_until


def create(name: str) -> None:
    """Makes the node's root group; the kubelet wants it there in each hierarchy."""
    for hierarchy in _hierarchies():
        (hierarchy / name).mkdir(exist_ok=True)


def remove(name: str) -> None:
    """Removes the group with all that pods left in it, once their last process is gone."""
    wait_until(f"control group {name} is empty", lambda: _removed(name), seconds=30)


def _removed(name: str) -> bool:
    for hierarchy in _hierarchies():
        root = hierarchy / name
        if not root.exists():
            continue
        below = [folder for folder in root.rglob("*") if folder.is_dir()]
        for folder in [*sorted(below, reverse=True), root]:
            try:
                folder.rmdir()
            except OSError:  # busy: a killed process has not left yet
                return False
    return True


def _hierarchies() -> list[Path]:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return [Path(path) for _, path, kind, *_ in mounts if kind in ("cgroup", "cgroup2")]
