"""The images that the test cluster runs, made on this machine and kept in the cache."""

import hashlib
import io
import json
import os
import platform
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.cluster import cache
from tests.cluster.binaries import binary
from tests.cluster.processes import REPOSITORY

PAUSE = "docker.io/aligntune/pause:test"
OPERATOR = "docker.io/aligntune/operator:test"
OPERATOR_BEFORE = "docker.io/aligntune/operator:test-before"
TRAINERS = {
    "bare-trl": "docker.io/aligntune/trainer:test",
    "bare-unsloth": "docker.io/aligntune/trainer:test-unsloth",
}
"""Target of the Containerfile -> image. Pods may leave out the host, with imagePullPolicy
IfNotPresent."""

DEBIAN = "bookworm"
MADE_BY = "debootstrap or go build"
OPERATOR_CONTAINERFILE = Path("images/operator/Containerfile")
OPERATOR_PINS = ("constraints.txt", "pyproject.toml")
OPERATOR_CODE = ("aligntune", "operator")
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
        _write_archive(archive, PAUSE, [layer.getvalue()], _new_image({"Entrypoint": ["/pause"]}))

    return cache.once(f"{program.parent.name}/pause.tar", make)


def trainers() -> list[Path]:
    """Archives of the bare trainer images, built on a Debian made here."""
    containerfile = Path("images/trainer/Containerfile")
    return [_build(image, containerfile, target=target) for target, image in TRAINERS.items()]


def operator(root: Path = REPOSITORY) -> Path:
    """Archive of the operator's image, as `charts/` deploys it, on a Debian made here.

    Args:
        root: The repository, as this commit or another has it.
    """
    return _build(OPERATOR, OPERATOR_CONTAINERFILE, OPERATOR_PINS + OPERATOR_CODE, root=root)


def write_operator_before(root: Path, archive: Path) -> None:
    """Writes the operator's image as another commit makes it, under a name of its own.

    That commit's code is laid over today's image, in seconds; it is built anew, in minutes, only
    where it asks for other packages.

    Args:
        root: The repository as that commit has it.
        archive: Where it is written.
    """
    asked = (OPERATOR_CONTAINERFILE, *OPERATOR_PINS)
    same = all((root / file).read_bytes() == (REPOSITORY / file).read_bytes() for file in asked)
    _write_with_code(operator(REPOSITORY if same else root), root, archive)


def _write_with_code(built: Path, root: Path, archive: Path) -> None:
    """Writes an operator's image again, with the code of `root` before what it has installed."""
    with tarfile.open(built) as tar:

        def read(name: str) -> bytes:
            found = tar.extractfile(name)
            assert found is not None, f"{name} in {built} is not a file"
            return found.read()

        [manifest] = json.loads(read("manifest.json"))
        image = json.loads(read(manifest["Config"]))
        layers = [read(name) for name in manifest["Layers"]]
    code = io.BytesIO()
    with tarfile.open(fileobj=code, mode="w") as tar:
        for folder in OPERATOR_CODE:
            tar.add(root / folder, f"before/{folder}")
    image["config"]["Env"].append("PYTHONPATH=/before:/before/operator")
    _write_archive(archive, OPERATOR_BEFORE, [*layers, code.getvalue()], image)


def _build(
    image: str,
    containerfile: Path,
    sources: tuple[str, ...] = (),
    *,
    target: str = "",
    root: Path = REPOSITORY,
) -> Path:
    """Builds a Containerfile in the repository's root, unless its sources are those of before."""
    base = cache.once(f"base-{DEBIAN}.tar", _make_debian)
    digest = hashlib.sha256(f"{base.name} {target}".encode() + (root / containerfile).read_bytes())
    for file in _files(root, sources):
        digest.update(str(file.relative_to(root)).encode() + file.read_bytes())

    def make(archive: Path) -> None:
        with tempfile.TemporaryDirectory(dir=cache.folder()) as folder:
            buildah = ["buildah", "--root", f"{folder}/storage", "--runroot", f"{folder}/run"]
            build = [
                *("bud", "--file", str(root / containerfile), "--tag", image),
                *("--build-arg", f"BASE=docker-archive:{base}"),
                *("--build-arg", "PIP_CERT=/run/authorities.crt"),
                *("--volume", f"{AUTHORITIES}:/run/authorities.crt:ro"),
                *(("--target", target) if target else ()),
            ]
            push = ["push", image, f"docker-archive:{archive}:{image}"]
            for command in ([*build, str(root)], push):
                subprocess.run(
                    [*buildah, "--storage-driver", "vfs", *command],
                    # The default isolation wants privileges that containers rarely have.
                    env={**os.environ, "BUILDAH_ISOLATION": "chroot"},
                    check=True,
                )

    name = "-".join(filter(None, (containerfile.parent.name, target)))
    return cache.once(f"{name}-{digest.hexdigest()[:16]}.tar", make)


def _files(root: Path, sources: tuple[str, ...]) -> list[Path]:
    found = [root / source for source in sources]
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
    _write_archive(archive, f"localhost/debian:{DEBIAN}", [layer], _new_image({"Cmd": ["bash"]}))


def _new_image(config: dict[str, list[str]]) -> dict[str, Any]:
    return {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()],
        "os": "linux",
        "config": config,
        # buildah counts the layers of an image's history before it builds on what it built.
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": MADE_BY}],
    }


def _write_archive(
    archive: Path, reference: str, layers: Sequence[bytes], image: Mapping[str, Any]
) -> None:
    """Writes an image in the format of `docker save`."""
    ids = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
    config = {**image, "rootfs": {"type": "layers", "diff_ids": ids}}
    files = {f"layer-{number}.tar": layer for number, layer in enumerate(layers)}
    manifest = [{"Config": "config.json", "RepoTags": [reference], "Layers": list(files)}]
    files["config.json"] = json.dumps(config).encode()
    files["manifest.json"] = json.dumps(manifest).encode()
    with tarfile.open(archive, "w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
