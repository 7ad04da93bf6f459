"""The pod that trains: it meets the restricted Pod Security Standard."""

from collections.abc import Mapping, Sequence
from posixpath import normpath
from typing import Any

from aligntune.api import env, labels
from aligntune.api.job import AlignTuneJobSpec
from aligntune.api.labels import (
    CONFIG_VOLUME,
    MODEL_CACHE_VOLUME,
    NO_SIDECAR_ANNOTATIONS,
    NO_SIDECAR_LABELS,
    SCRATCH_VOLUME,
    SHM_VOLUME,
    SOURCE_VOLUMES,
    STORAGE_VOLUME,
)
from aligntune.api.names import service_name
from aligntune.api.run import RunConfig
from aligntune.api.runtime import REQUIRED_AFFINITY, ClaimSource, RuntimeSpec, Volume
from aligntune.api.status import Source
from aligntune.core.config.base import Section
from aligntune_operator.observe import Key
from aligntune_operator.settings import Settings
from aligntune_operator.stages import model_name

MODEL_CACHE_DIR = f"{env.HOME_DIR}/huggingface"


def pod_template(
    config: RunConfig,
    spec: AlignTuneJobSpec,
    pod_labels: dict[str, str],
    settings: Settings,
    lineage: Sequence[Source],
) -> dict[str, Any]:
    """The template of an attempt's pods; its annotation carries the config of the attempt.

    What stands at its default is left out of it, so that a trainer image that lacks a field refuses
    only the jobs that ask for it.
    """
    cache = model_cache(spec.runtime, settings)
    spec = _read_only_by_mounts(spec, cache)
    runtime = spec.runtime
    key = Key(config.job.namespace, config.job.name)
    stored = [(source.claim_name, source) for source in lineage if source.claim_name]
    claims = _claims(spec, stored, cache)
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": spec.policy.termination_grace_period_seconds,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
            **({"fsGroup": settings.fs_group} if settings.fs_group is not None else {}),
            # The kubelet would walk every file of the storage at each attempt, while GPUs are held.
            "fsGroupChangePolicy": "OnRootMismatch",
        },
        "containers": [
            _container(
                spec,
                settings,
                [
                    *_storage_mounts(claims),
                    *_cache_mounts(cache, claims),
                    *_source_mounts(stored, claims),
                ],
            )
        ],
        "volumes": _volumes(spec, claims),
        **_placement(runtime, key.name, settings),
    }
    if runtime.nodes > 1:
        pod["subdomain"] = service_name(key.name, config.job.uid)
    return {
        "metadata": {
            "labels": ({} if settings.mesh_sidecar else NO_SIDECAR_LABELS)
            | runtime.labels
            | pod_labels,
            "annotations": ({} if settings.mesh_sidecar else NO_SIDECAR_ANNOTATIONS)
            | runtime.annotations
            | {env.CONFIG_ANNOTATION: config.model_dump_json(exclude_defaults=True)},
        },
        "spec": pod,
    }


def model_cache(runtime: RuntimeSpec, settings: Settings) -> str:
    """The claim of the cluster's model cache, unless something else takes its place."""
    mounted = {normpath(mount.mount_path) for mount in runtime.volume_mounts}
    named = {variable.name for variable in (*settings.trainer_env, *runtime.env)}
    return "" if MODEL_CACHE_DIR in mounted or "HF_HOME" in named else settings.model_cache


def _read_only_by_mounts(spec: AlignTuneJobSpec, cache: str) -> AlignTuneJobSpec:
    """The spec, with each claim that the trainer writes to read-only by the job's mounts alone.

    The kubelet mounts a claim once for a pod: a volume of it that is read-only would take the right
    to write from the storage or the cache.
    """
    written = {cache, spec.storage.claim_name if spec.storage else None}
    claims = {
        volume.name: claim.claim_name
        for volume in spec.runtime.volumes
        if (claim := volume.persistent_volume_claim)
        and claim.read_only
        and claim.claim_name in written
    }
    volumes = [
        Volume(
            name=volume.name, persistent_volume_claim=ClaimSource(claim_name=claims[volume.name])
        )
        if volume.name in claims
        else volume
        for volume in spec.runtime.volumes
    ]
    mounts = [
        mount.model_copy(update={"read_only": mount.read_only or mount.name in claims})
        for mount in spec.runtime.volume_mounts
    ]
    runtime = spec.runtime.model_copy(update={"volumes": volumes, "volume_mounts": mounts})
    return spec.model_copy(update={"runtime": runtime})


def _container(
    spec: AlignTuneJobSpec, settings: Settings, shared: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    runtime = spec.runtime
    container: dict[str, Any] = {
        "name": labels.TRAINER_CONTAINER,
        "image": runtime.image or settings.trainer_image(spec.backend),
        "command": ["python3", "-m", "aligntune"],
        "args": ["launch", f"{env.CONFIG_DIR}/{env.CONFIG_FILE}"],
        "env": _environment(spec, settings),
        "ports": [{"name": "metrics", "containerPort": env.PROGRESS_PORT}],
        "resources": _resources(runtime),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {
                "drop": ["ALL"],
                **({"add": ["IPC_LOCK"]} if runtime.lock_memory else {}),
            },
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": CONFIG_VOLUME, "mountPath": env.CONFIG_DIR, "readOnly": True},
            {"name": SCRATCH_VOLUME, "mountPath": env.HOME_DIR},
            {"name": SCRATCH_VOLUME, "mountPath": "/tmp", "subPath": "tmp"},  # noqa: S108 - inside the pod
            *([{"name": SHM_VOLUME, "mountPath": "/dev/shm"}] if runtime.shared_memory else []),  # noqa: S108
            *shared,
            *(_plain(mount) for mount in runtime.volume_mounts),
        ],
    }
    if runtime.image_pull_policy:
        container["imagePullPolicy"] = runtime.image_pull_policy
    if runtime.env_from:
        container["envFrom"] = [_plain(source) for source in runtime.env_from]
    return container


def _environment(spec: AlignTuneJobSpec, settings: Settings) -> list[dict[str, Any]]:
    """The operator's variables, then those of the cluster's owner, then the job's: the last win."""
    variables: list[dict[str, Any]] = [
        # The root is read-only, and nearly all caches of libraries are below HOME or in /tmp.
        {"name": "HOME", "value": env.HOME_DIR},
        {"name": "HF_HOME", "value": MODEL_CACHE_DIR},
        {"name": "USER", "value": "aligntune"},
        {"name": env.TERMINATION_MESSAGE_PATH, "value": "/dev/termination-log"},
        {"name": env.POD_UID, "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
        {"name": env.POD_NAME, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        *map(_plain, settings.trainer_env),
    ]
    if spec.hub.token_secret:
        variables.append(
            {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": _plain(spec.hub.token_secret)}}
        )
    variables += map(_plain, spec.runtime.env)
    last = {variable["name"]: index for index, variable in enumerate(variables)}
    return [variables[index] for index in sorted(last.values())]


def _resources(runtime: RuntimeSpec) -> dict[str, Any]:
    requests, limits = dict(runtime.resources.requests), dict(runtime.resources.limits)
    if runtime.gpus_per_node:
        limits[runtime.gpu_resource] = str(runtime.gpus_per_node)
    found = {"requests": requests, "limits": limits}
    return {kind: values for kind, values in found.items() if values}


def _volumes(spec: AlignTuneJobSpec, claims: Mapping[str, str]) -> list[dict[str, Any]]:
    config = {
        "path": env.CONFIG_FILE,
        "fieldRef": {"fieldPath": f"metadata.annotations['{env.CONFIG_ANNOTATION}']"},
    }
    volumes: list[dict[str, Any]] = [
        {"name": CONFIG_VOLUME, "downwardAPI": {"items": [config]}},
        {"name": SCRATCH_VOLUME, "emptyDir": {}},
    ]
    if spec.runtime.shared_memory:
        size = str(spec.runtime.shared_memory)
        volumes.append({"name": SHM_VOLUME, "emptyDir": {"medium": "Memory", "sizeLimit": size}})
    for claim, name in claims.items():
        if name in (STORAGE_VOLUME, MODEL_CACHE_VOLUME, *SOURCE_VOLUMES):
            read_only = {"readOnly": True} if name in SOURCE_VOLUMES else {}
            source = {"claimName": claim, **read_only}
            volumes.append({"name": name, "persistentVolumeClaim": source})
    return volumes + [_plain(volume) for volume in spec.runtime.volumes]


def _claims(
    spec: AlignTuneJobSpec, stored: Sequence[tuple[str, Source]], cache: str
) -> dict[str, str]:
    """The volume of each claim, which a pod mounts once."""
    claims = {}
    if spec.storage and spec.storage.claim_name:
        claims[spec.storage.claim_name] = STORAGE_VOLUME
    for volume in spec.runtime.volumes:
        if volume.persistent_volume_claim:
            claims.setdefault(volume.persistent_volume_claim.claim_name, volume.name)
    if cache:
        claims.setdefault(cache, MODEL_CACHE_VOLUME)
    new = dict.fromkeys(claim for claim, _ in stored)
    names = zip((claim for claim in new if claim not in claims), SOURCE_VOLUMES, strict=False)
    return claims | dict(names)


def _storage_mounts(claims: Mapping[str, str]) -> list[dict[str, Any]]:
    """The mount of the storage's claim; without one the storage is a folder of the scratch."""
    there = STORAGE_VOLUME in claims.values()
    return [{"name": STORAGE_VOLUME, "mountPath": env.STORAGE_DIR}] if there else []


def _cache_mounts(claim: str, claims: Mapping[str, str]) -> list[dict[str, Any]]:
    """The mount of the cluster's model cache, if there is one."""
    return [{"name": claims[claim], "mountPath": MODEL_CACHE_DIR}] if claim else []


def _source_mounts(
    stored: Sequence[tuple[str, Source]], claims: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The mounts of other jobs' models."""
    return [
        {
            "name": claims[claim],
            "mountPath": model_name(source),
            "subPath": source.path,
            "readOnly": True,
        }
        for claim, source in stored
    ]


def _placement(runtime: RuntimeSpec, name: str, settings: Settings) -> dict[str, Any]:
    secrets = (*runtime.image_pull_secrets, *settings.image_pull_secrets)
    fields = {
        "nodeSelector": runtime.node_selector,
        "tolerations": [_plain(toleration) for toleration in runtime.tolerations],
        "affinity": _affinity(runtime, name),
        "priorityClassName": runtime.priority_class_name,
        "schedulerName": runtime.scheduler_name,
        "runtimeClassName": runtime.runtime_class_name,
        "serviceAccountName": runtime.service_account_name,
        "imagePullSecrets": [
            {"name": name} for name in dict.fromkeys(secret.name for secret in secrets)
        ],
    }
    return {name: value for name, value in fields.items() if value}


def _affinity(runtime: RuntimeSpec, name: str) -> dict[str, Any]:
    """The job's own affinity, and that of its pods to each other."""
    if runtime.topology_key is None:
        return runtime.affinity
    pods = dict(runtime.affinity.get("podAffinity", {}))
    together = {
        "labelSelector": {"matchLabels": {labels.JOB_NAME: name}},
        "topologyKey": runtime.topology_key,
    }
    return runtime.affinity | {
        "podAffinity": pods | {REQUIRED_AFFINITY: [*pods.get(REQUIRED_AFFINITY, ()), together]}
    }


def _plain(section: Section) -> dict[str, Any]:
    """A section as the Kubernetes object that it mirrors."""
    return section.model_dump(by_alias=True, exclude_none=True, exclude_defaults=True)
