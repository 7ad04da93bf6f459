"""Kueue's LocalQueues without Kueue: a stand-in that no webhook or controller serves."""

from typing import Any

LOCAL_QUEUES: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    # the API server lets nobody define kinds below *.k8s.io without naming a review
    "metadata": {
        "name": "localqueues.kueue.x-k8s.io",
        "annotations": {"api-approved.kubernetes.io": "unapproved, a stand-in"},
    },
    "spec": {
        "group": "kueue.x-k8s.io",
        "scope": "Namespaced",
        "names": {
            "kind": "LocalQueue",
            "listKind": "LocalQueueList",
            "plural": "localqueues",
            "singular": "localqueue",
        },
        "versions": [
            {
                "name": "v1beta2",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "x-kubernetes-preserve-unknown-fields": True,
                    }
                },
            }
        ],
    },
}
"""The kind, as a CustomResourceDefinition."""


def local_queue(name: str) -> dict[str, Any]:
    """A LocalQueue's manifest."""
    return {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "LocalQueue",
        "metadata": {"name": name},
        "spec": {"clusterQueue": "gpus"},
    }
