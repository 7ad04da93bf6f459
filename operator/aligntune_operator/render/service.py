"""The headless Service that gives the pods of a gang their names."""

from typing import Any

from aligntune.api import env, labels
from aligntune.api.names import service_name
from aligntune_operator.observe import Key
from aligntune_operator.render.names import common_labels, metadata


def service(key: Key, uid: str) -> dict[str, Any]:
    """One per job, for all its attempts."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(key, uid, service_name(key.name, uid), common_labels(key.name)),
        "spec": {
            "clusterIP": "None",
            # Ranks look for each other before any of them is ready.
            "publishNotReadyAddresses": True,
            "selector": {labels.JOB_NAME: key.name},
            "ports": [{"name": "rendezvous", "port": env.RENDEZVOUS_PORT}],
        },
    }
