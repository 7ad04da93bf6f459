"""Labels and owner of the objects that belong to an AlignTuneJob."""

from aligntune.api import labels


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
