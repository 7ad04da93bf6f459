"""Names and labels of the objects that belong to an AlignTuneJob."""

import hashlib

from aligntune.api import labels

HASH_LENGTH = 5


def base_name(name: str, uid: str) -> str:
    """The stem of all names: a job re-created under the same name gets another."""
    return f"{name}-{hashlib.sha256(uid.encode()).hexdigest()[:HASH_LENGTH]}"


def job_name(name: str, uid: str, attempt: int) -> str:
    """Name of an attempt's Job."""
    return f"{base_name(name, uid)}-{attempt}"


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
