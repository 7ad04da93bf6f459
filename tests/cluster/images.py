"""The images that the test cluster runs, made on this machine and kept in the cache."""

import hashlib
import io
import json
import os
import platform
import subprocess
import tarfile
import tempfile
from pathlib import Path

from tests.cluster import cache
from tests.cluster.binaries import binary
from tests.cluster.processes import REPOSITORY

PAUSE = "docker.io/aligntune/pause:test"
OPERATOR = "docker.io/aligntune/operator:test"
TRAINERS = {
    "bare-trl": "docker.io/aligntune/trainer:test",
    "bare-unsloth": "docker.io/aligntune/trainer:test-unsloth",
}
"""Target of the Containerfile -> image. Pods may leave out the host, with imagePullPolicy
IfNotPresent."""

DEBIAN = "bookworm"
MADE_BY = "debootstrap or go build"
OPERATOR_SOURCES = ("constraints.txt", "pyproject.toml", "aligntune", "operator")
"""What its image is made of, besides its Containerfile."""

AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
"""The authorities that this machine trusts: one of a proxy's may be among them."""


def pause() -> Path:
    """Archive of the image that holds a pod's network namespace: one static program."""
    program = binary("pause")

    def make(archive: Path) -> None:
        layer = io.BytesIO()
        with tarfile.open(fileobj=layer, mode="w") as tar:
            tar.add(program, "pause")
        _write_archive(archive, PAUSE, layer.getvalue(), {"Entrypoint": ["/pause"]})

    return cache.once(f"{program.parent.name}/pause.tar", make)


def trainers() -> list[Path]:
    """Archives of the bare trainer images, built on a Debian made here."""
    containerfile = REPOSITORY / "images" / "trainer" / "Containerfile"
    return [_build(image, containerfile, target=target) for target, image in TRAINERS.items()]


def operator() -> Path:
    """Archive of the operator's image, as `charts/` deploys it, on a Debian made here."""
    containerfile = REPOSITORY / "images" / "operator" / "Containerfile"
    return _build(OPERATOR, containerfile, OPERATOR_SOURCES)


def _build(
    image: str, containerfile: Path, sources: tuple[str, ...] = (), *, target: str = ""
) -> Path:
    """Builds a Containerfile in the repository's root, unless its sources are those of before."""
    base = cache.once(f"base-{DEBIAN}.tar", _make_debian)
    digest = hashlib.sha256(f"{base.name} {target}".encode() + containerfile.read_bytes())
    for file in _files(sources):
        digest.update(str(file.relative_to(REPOSITORY)).encode() + file.read_bytes())

    def make(archive: Path) -> None:
        with tempfile.TemporaryDirectory(dir=cache.folder()) as folder:
            buildah = ["buildah", "--root", f"{folder}/storage", "--runroot", f"{folder}/run"]
            build = [
                *("bud", "--file", str(containerfile), "--tag", image),
                *("--build-arg", f"BASE=docker-archive:{base}"),
                *("--build-arg", "PIP_CERT=/run/authorities.crt"),
                *("--volume", f"{AUTHORITIES}:/run/authorities.crt:ro"),
                *(("--target", target) if target else ()),
            ]
            push = ["push", image, f"docker-archive:{archive}:{image}"]
            for command in ([*build, str(REPOSITORY)], push):
                subprocess.run(
                    [*buildah, "--storage-driver", "vfs", *command],
                    # The default isolation wants privileges that containers rarely have.
                    env={**os.environ, "BUILDAH_ISOLATION": "chroot"},
                    check=True,
                )

    name = "-".join(filter(None, (containerfile.parent.name, target)))
    return cache.once(f"{name}-{digest.hexdigest()[:16]}.tar", make)


def _files(sources: tuple[str, ...]) -> list[Path]:
    found = [REPOSITORY / source for source in sources]
    below = [file for folder in found for file in folder.rglob("*")]
    return sorted(f for f in (*found, *below) if f.is_file() and "__pycache__" not in f.parts)


def _make_debian(archive: Path) -> None:
    with tempfile.TemporaryDirectory(dir=cache.folder()) as folder:
        root = Path(folder) / "root"
        subprocess.run(["debootstrap", "--variant=minbase", DEBIAN, str(root)], check=True)
        layer = subprocess.run(
            ["tar", "--create", "--directory", str(root), "--exclude=./var/cache/apt/*", "."],
            capture_output=True,
            check=True,
        ).stdout
    _write_archive(archive, f"localhost/debian:{DEBIAN}", layer, {"Cmd": ["bash"]})


def _write_archive(
    archive: Path, reference: str, layer: bytes, config: dict[str, list[str]]
) -> None:
    """Writes an image of one layer in the format of `docker save`."""
    image = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()],
        "os": "linux",
        "config": config,
        # buildah counts the layers of an image's history before it builds on what it built.
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": MADE_BY}],
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [reference], "Layers": ["layer.tar"]}]
    with tarfile.open(archive, "w") as tar:
        for name, content in (
            ("config.json", json.dumps(image).encode()),
            ("layer.tar", layer),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
