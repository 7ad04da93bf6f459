"""The cluster's programs, built from pinned Go modules once per machine."""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.cluster import cache
from tests.cluster.processes import output

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
    "gitops": ("gitops", "."),
    "helm": ("helm", "helm.sh/helm/v4/cmd/helm"),
    "kwok": ("kwok", "sigs.k8s.io/kwok/cmd/kwok"),
    "pause": ("pause", "."),
}
"""Program -> (folder of the module that pins it, package to build)."""


def binary(name: str) -> Path:
    """Path of a program, built first if this machine has not built it from these pins before.

    Building all of Kubernetes takes about six minutes on two cores.
    """
    module, package = PACKAGES[name]
    return built(MODULES / module, package, name)


def built(source: Path, package: str, name: str, *flags: str) -> Path:
    """The same for a package of any module.

    Args:
        source: Folder of the module that pins it.
        package: What to build.
        name: Of the program.
        flags: More flags of `go build`.
    """
    return cache.once(
        f"{source.name}-{_digest(source)}/{name}",
        lambda program: _build(source, package, program, flags),
    )


def downloaded(source: Path, module: str) -> Path:
    """A module's files, of which manifests are some, downloaded first if need be.

    Args:
        source: Folder of the module that pins it.
        module: Its path.
    """
    env = {**os.environ, "GOFLAGS": "", "GOWORK": "off"}
    told = output("go", "-C", source, "mod", "download", "-json", module, env=env)
    return Path(json.loads(told)["Dir"])


def _digest(source: Path) -> str:
    digest = hashlib.sha256(platform.machine().encode())
    for file in sorted(source.iterdir()):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _build(source: Path, package: str, program: Path, flags: Sequence[str]) -> None:
    if shutil.which("go") is None:
        raise RuntimeError(
            "go was not found on PATH, and the cluster's programs have to be built with it: "
            "install Go 1.26 or newer (see go.dev/dl)."
        )
    subprocess.run(
        [
            *("go", "build", "-mod=readonly", "-trimpath"),
            *("-ldflags", f"-s -w {_version_flags(source)}"),
            *flags,
            *("-o", str(program), package),
        ],
        cwd=source,
        env={**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"},
        check=True,
    )


def _version_flags(source: Path) -> str:
    """Linker flags without which the API server and kubectl say they are v0.0.0-master."""
    pin = re.search(r"k8s\.io/kubernetes (v(\d+)\.(\d+)\.\d+)", (source / "go.mod").read_text())
    if pin is None:
        return ""
    version = "-X k8s.io/component-base/version"
    return f"{version}.gitVersion={pin[1]} {version}.gitMajor={pin[2]} {version}.gitMinor={pin[3]}"
