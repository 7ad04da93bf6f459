"""The peers' programs and manifests, from their own Go modules."""

import shutil
import tempfile
from pathlib import Path

from tests.cluster.binaries import built, downloaded

GO = Path(__file__).parent / "go"
TRAINER = "github.com/kubeflow/trainer/v2"
JOBSET = "sigs.k8s.io/jobset"
CONTROLLER_RUNTIME = "sigs.k8s.io/controller-runtime"
TRAINERS_PACKAGE = f"{TRAINER}/cmd/trainer-controller-manager"
TRAINERS_PROGRAM = "trainer-controller-manager"
"""Also what it calls itself before the API server."""
LIMITS = {"cfg.QPS = 20.0": "cfg.QPS = 500.0", "cfg.Burst = 30": "cfg.Burst = 500"}
"""The Trainer's limits of requests, which no flag changes, and those of JobSet."""


def jobset() -> Path:
    """JobSet's controller, built first if need be."""
    return built(GO / "jobset", JOBSET, "jobset")


def trainer() -> Path:
    """The Trainer's controller, built first if need be."""
    return built(GO / "trainer", TRAINERS_PACKAGE, TRAINERS_PROGRAM)


def trainer_with_raised_limits() -> Path:
    """The same with JobSet's limits of requests to the API server."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shipped = downloaded(GO / "trainer", CONTROLLER_RUNTIME)
        ours = shutil.copytree(shipped, folder / "raised", copy_function=shutil.copyfile)
        config = ours / "pkg" / "client" / "config" / "config.go"
        text = config.read_text()
        for theirs, raised in LIMITS.items():
            assert theirs in text, f"{config}: no {theirs}"
            text = text.replace(theirs, raised)
        config.write_text(text)
        pins = (GO / "trainer" / "go.mod").read_text()
        (folder / "go.mod").write_text(f"{pins}\nreplace {CONTROLLER_RUNTIME} => {ours}\n")
        shutil.copy(GO / "trainer" / "go.sum", folder)
        name = f"raised/{TRAINERS_PROGRAM}"
        return built(GO / "trainer", TRAINERS_PACKAGE, name, f"-modfile={folder / 'go.mod'}")
