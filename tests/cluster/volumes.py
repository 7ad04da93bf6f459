"""Volumes that give a pod of the small trainer image everything a training run needs.

A full Python environment with torch is 6 GB: it is not copied into an image but mounted from the
machine. The restricted Pod Security Standard forbids a pod to name a host's folder, so each
folder is a PersistentVolume and pods mount its claim.
"""

import sys
import sysconfig
from pathlib import Path
from typing import Any

from tests.cluster.processes import REPOSITORY

SOURCE, PACKAGES, UNSLOTH, MODELS, CACHE = (
    f"aligntune-{name}" for name in ("source", "packages", "unsloth", "models", "cache")
)
"""Names of the claims in every namespace."""

MOUNT_PATHS = {
    SOURCE: "/opt/aligntune/source",
    PACKAGES: "/opt/aligntune/site-packages",
    UNSLOTH: "/opt/aligntune/unsloth",
    MODELS: "/models",
    CACHE: "/cache",
}
"""Where pods mount them; trainer images look for Python code in the first two, and that for Unsloth
in the third."""


def environment_volumes(namespace: str, models: Path, cache: Path) -> list[dict[str, Any]]:
    """PersistentVolumes and claims for one namespace.

    Args:
        namespace: Where the claims are made; the volumes' names end with it.
        models: Folder that pods write models to. It is made here, writable for any user.
        cache: Folder with models and data that pods read.
    """
    models.mkdir(parents=True, exist_ok=True)
    models.chmod(0o777)
    folders = {
        SOURCE: REPOSITORY,
        PACKAGES: Path(sysconfig.get_path("purelib")),
        UNSLOTH: Path(sys.prefix) / "unsloth",
        MODELS: models,
        CACHE: cache,
    }
    return [
        manifest
        for claim, folder in folders.items()
        for manifest in _volume_and_claim(namespace, claim, folder.resolve())
    ]


def pod_volumes() -> list[dict[str, Any]]:
    """The `volumes` of a pod that mounts those claims; all but the models are read-only."""
    return [
        {"name": claim, "persistentVolumeClaim": {"claimName": claim, "readOnly": claim != MODELS}}
        for claim in MOUNT_PATHS
    ]


def volume_mounts() -> list[dict[str, Any]]:
    """The `volumeMounts` of its container."""
    return [{"name": claim, "mountPath": path} for claim, path in MOUNT_PATHS.items()]


def _volume_and_claim(namespace: str, claim: str, folder: Path) -> list[dict[str, Any]]:
    name = f"{claim}-{namespace}"
    shared = {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "",
    }
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            **shared,
            "capacity": {"storage": "1Gi"},
            "hostPath": {"path": str(folder), "type": "Directory"},
            "claimRef": {"namespace": namespace, "name": claim},
        },
    }
    claim_for_it = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": claim, "namespace": namespace},
        "spec": {
            **shared,
            "resources": {"requests": {"storage": "1Gi"}},
            "volumeName": name,
        },
    }
    return [volume, claim_for_it]
