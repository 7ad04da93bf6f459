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

PAUSE = "docker.io/aligntune/pause:test"
TRAINERS = {
    "trl": "docker.io/aligntune/trainer:test",
    "unsloth": "docker.io/aligntune/trainer:test-unsloth",
}
"""Target of the Containerfile -> image. Pods may leave out the host, with imagePullPolicy
IfNotPresent."""

DEBIAN = "bookworm"
MADE_BY = "debootstrap or go build"
TRAINER_CONTEXT = Path(__file__).parents[2] / "images" / "trainer"


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
    """Archives of the trainer images, built from their Containerfile on a Debian made here."""
    return [_trainer(target, image) for target, image in TRAINERS.items()]


def _trainer(target: str, image: str) -> Path:
    base = cache.once(f"base-{DEBIAN}.tar", _make_debian)
    digest = hashlib.sha256(f"{base.name} {target}".encode())
    for file in sorted(TRAINER_CONTEXT.rglob("*")):
        if file.is_file():
            digest.update(str(file.relative_to(TRAINER_CONTEXT)).encode() + file.read_bytes())

    def make(archive: Path) -> None:
        with tempfile.TemporaryDirectory(dir=cache.folder()) as folder:
            buildah = ["buildah", "--root", f"{folder}/storage", "--runroot", f"{folder}/run"]
            build = ["bud", "--build-arg", f"BASE=docker-archive:{base}", "--target", target]
            push = ["push", image, f"docker-archive:{archive}:{image}"]
            for command in ([*build, "--tag", image, str(TRAINER_CONTEXT)], push):
                subprocess.run(
                    [*buildah, "--storage-driver", "vfs", *command],
                    # The default isolation wants privileges that containers rarely have.
                    env={**os.environ, "BUILDAH_ISOLATION": "chroot"},
                    check=True,
                )

    return cache.once(f"trainer-{target}-{digest.hexdigest()[:16]}.tar", make)


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
