"""The NetworkPolicy that keeps others from the pods of a job."""

from collections.abc import Sequence
from typing import Any

from aligntune.api import env, labels
from aligntune.api.names import base_name
from aligntune_operator.observe import Key
from aligntune_operator.render.names import common_labels, metadata


def network_policy(key: Key, uid: str, observers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One per job, for all its attempts: nobody is let in but its own pods and the observers.

    Args:
        key: Namespace and name of the AlignTuneJob.
        uid: Its UID.
        observers: Peers, as a NetworkPolicy names them, that may ask for progress and metrics.
    """
    ingress: list[dict[str, Any]] = [{"from": [{"podSelector": _pods_of(key)}]}]
    if observers:
        ports = [{"protocol": "TCP", "port": env.PROGRESS_PORT}]
        ingress.append({"from": list(observers), "ports": ports})
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(key, uid, base_name(key.name, uid), common_labels(key.name)),
        "spec": {
            "podSelector": _pods_of(key),
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        },
    }


def _pods_of(key: Key) -> dict[str, Any]:
    return {"matchLabels": {labels.JOB_NAME: key.name}}
