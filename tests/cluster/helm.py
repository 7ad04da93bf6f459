"""Helm, and the chart as the tests install it."""

import os
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
