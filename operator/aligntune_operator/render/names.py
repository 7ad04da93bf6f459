"""What the objects that belong to an AlignTuneJob have in common."""

from collections.abc import Mapping
from typing import Any

from aligntune.api import labels
from aligntune_operator.observe import Key


def common_labels(name: str) -> dict[str, str]:
    """Labels of every object that belongs to a job."""
    return {
        labels.APP_NAME: "aligntune",
        labels.APP_INSTANCE: name,
        labels.APP_COMPONENT: "trainer",
        labels.MANAGED_BY: labels.FIELD_MANAGER,
        labels.JOB_NAME: name,
    }


def owner_reference(name: str, uid: str) -> dict[str, object]:
    """Makes the garbage collector remove an object with its AlignTuneJob."""
    return {
        "apiVersion": labels.API_VERSION,
        "kind": labels.KIND,
        "name": name,
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def metadata(key: Key, uid: str, name: str, all_labels: Mapping[str, str]) -> dict[str, Any]:
    """Of an object that belongs to a job.

    Args:
        key: Namespace and name of the AlignTuneJob.
        uid: Its UID.
        name: The object's.
        all_labels: Its labels: `common_labels`, and more.
    """
    return {
        "name": name,
        "namespace": key.namespace,
        "labels": dict(all_labels),
        "ownerReferences": [owner_reference(key.name, uid)],
    }
