"""The cluster's programs, built from pinned Go modules once per machine."""

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

MODULES = Path(__file__).parent / "go"
KUBERNETES = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
)
PACKAGES = {
    **{name: ("kubernetes", f"k8s.io/kubernetes/cmd/{name}") for name in KUBERNETES},
    "etcd": ("etcd", "go.etcd.io/etcd/server/v3"),
    "coredns": ("coredns", "."),
    "pause": ("pause", "."),
}
"""Program -> (folder of the module that pins it, package to build)."""


def cache_folder() -> Path:
    """Where everything that is slow to make is kept, shared by all clones of the repository."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "aligntune" / "cluster"


def binary(name: str) -> Path:
    """Path of a program, built first if this machine has not built it from these pins before.

    Building all of Kubernetes takes about six minutes on two cores.
    """
    module, package = PACKAGES[name]
    source = MODULES / module
    folder = cache_folder() / f"{module}-{_digest(source)}"
    program = folder / name
    if program.exists():
        return program
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            _build(source, package, program)
    return program


def _digest(source: Path) -> str:
    digest = hashlib.sha256(platform.machine().encode())
    for file in sorted(source.iterdir()):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _build(source: Path, package: str, program: Path) -> None:
    if shutil.which("go") is None:
        raise RuntimeError(
            f"{program.name} has to be built and go was not found on PATH: "
            "install Go 1.25 or newer (go.dev/dl)."
        )
    unfinished = program.with_suffix(".unfinished")
    subprocess.run(
        [
            *("go", "build", "-mod=readonly", "-trimpath"),
            *("-ldflags", f"-s -w {_version_flags(source)}"),
            *("-o", str(unfinished), package),
        ],
        cwd=source,
        env={**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"},
        check=True,
    )
    unfinished.rename(program)


def _version_flags(source: Path) -> str:
    """Linker flags without which the API server and kubectl say they are v0.0.0-master."""
    pin = re.search(r"k8s\.io/kubernetes (v(\d+)\.(\d+)\.\d+)", (source / "go.mod").read_text())
    if pin is None:
        return ""
    version = "-X k8s.io/component-base/version"
    return f"{version}.gitVersion={pin[1]} {version}.gitMajor={pin[2]} {version}.gitMinor={pin[3]}"
