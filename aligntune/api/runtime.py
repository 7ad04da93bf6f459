"""Where a job runs: the parts of a pod that a manifest may choose, and no more.

Host paths, host namespaces, privileges and security contexts are not among them.
"""

import re
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from aligntune.api.labels import RESERVED_VOLUMES
from aligntune.core.config.base import EXACT, Rule, Section, cel_rules, rule_error

Nodes = Annotated[int, Field(ge=1, le=1000)]
DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DnsLabel = Annotated[str, Field(min_length=1, max_length=63, pattern=DNS_LABEL)]
ObjectName = Annotated[
    str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")
]
DOMAIN = r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"
NAME = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
QUALIFIED_NAME = f"^({DOMAIN}/)?{NAME}$"
LabelKey = Annotated[str, Field(min_length=1, max_length=317, pattern=QUALIFIED_NAME)]
LabelValue = Annotated[str, Field(max_length=63, pattern=f"^({NAME})?$")]
ExtendedResource = Annotated[str, Field(max_length=317, pattern=f"^{DOMAIN}/{NAME}$")]
EnvName = Annotated[
    str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z][-._a-zA-Z0-9]*$")
]
QUANTITY_PATTERN = r"^\+?[0-9]+(\.[0-9]+)?(m|k|[MGTPE]|[KMGTPE]i|e[0-9]+)?$"
LONGEST_QUANTITY = 32


def _quantity(value: object) -> object:
    """A number or a text that Kubernetes reads as a quantity.

    Raises:
        ValueError: It is neither: one sentence, where a union has one for each of its types.
    """
    text = value if isinstance(value, str) else ""
    whole = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= EXACT
    if not whole and (len(text) > LONGEST_QUANTITY or not re.match(QUANTITY_PATTERN, text)):
        raise ValueError('must be a quantity such as "0.5", 500m or 32Gi')
    return value


Quantity = Annotated[
    str | int,
    BeforeValidator(_quantity),
    Field(
        json_schema_extra={
            "x-kubernetes-int-or-string": True,
            "pattern": QUANTITY_PATTERN,
            "maxLength": LONGEST_QUANTITY,
            "minimum": 0,
            "maximum": EXACT,
        }
    ),
]
AbsolutePath = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^/[^:]*$")]
FOLDER = r"\.?[A-Za-z0-9_-][A-Za-z0-9._-]*"
SubPath = Annotated[str, Field(max_length=1024, pattern=f"^({FOLDER}(/{FOLDER})*)?$")]

QUALIFIED_KEYS = Rule(
    f"self.all(key, key.matches('{QUALIFIED_NAME}'))",
    "a key is NAME or DOMAIN/NAME; NAME is at most 63 letters, digits, '-', '_' and '.', with a"
    " letter or digit at both ends",
)
V = TypeVar("V")


def _qualified(named: dict[str, V]) -> dict[str, V]:
    if not all(re.fullmatch(QUALIFIED_NAME, key) for key in named):
        raise rule_error(QUALIFIED_KEYS)
    return named


# A structural schema says nothing of a map's keys, so a rule does.
Named = Annotated[
    dict[str, V],
    Field(max_length=64, json_schema_extra=cel_rules(QUALIFIED_KEYS)),
    AfterValidator(_qualified),
]
Labels = Named[LabelValue]


class ResourceRequirements(Section):
    """Compute resources of each pod, besides its GPUs."""

    requests: Named[Quantity] = {}
    """What the scheduler reserves, such as `{cpu: "4", memory: 32Gi}`. Empty: nothing."""
    limits: Named[Quantity] = {}
    """What the kernel enforces. Empty: no limit, except for GPUs."""


class Toleration(Section):
    """A taint that the pods tolerate, as in `pod.spec.tolerations`."""

    key: LabelKey | None = None
    """The taint's key. Unset: any, with operator Exists."""
    operator: Literal["Exists", "Equal"] | None = None
    """How the value is compared. Unset: Equal."""
    value: LabelValue | None = None
    """The taint's value. Unset: empty."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """The taint's effect. Unset: any."""
    toleration_seconds: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    """How long a NoExecute taint is tolerated, in seconds. Unset: for ever."""


class KeyRef(Section):
    """One key of a Secret or ConfigMap in the job's namespace."""

    name: ObjectName
    """The object's name."""
    key: Annotated[str, Field(min_length=1, max_length=253)]
    """The key in its data."""
    optional: bool = False
    """Start without it where it is missing. Off: a missing key is an error."""


class FieldRef(Section):
    """A field of the pod itself."""

    field_path: Annotated[str, Field(min_length=1, max_length=256)]
    """Such as `status.podIP`."""


ONE_ENV_SOURCE = Rule(
    "[has(self.secretKeyRef),"
    " has(self.configMapKeyRef),"
    " has(self.fieldRef)].filter(x, x).size() == 1",
    "set exactly one of secretKeyRef, configMapKeyRef and fieldRef",
)


class EnvVarSource(Section):
    """Where a variable's value comes from."""

    model_config = ConfigDict(json_schema_extra=cel_rules(ONE_ENV_SOURCE))

    secret_key_ref: KeyRef | None = None
    """A key of a Secret; the operator itself never reads it. Unset: not from a Secret."""
    config_map_key_ref: KeyRef | None = None
    """A key of a ConfigMap. Unset: not from a ConfigMap."""
    field_ref: FieldRef | None = None
    """A field of the pod. Unset: not from the pod."""

    @model_validator(mode="after")
    def _rules(self) -> Self:
        sources = (self.secret_key_ref, self.config_map_key_ref, self.field_ref)
        if sum(source is not None for source in sources) != 1:
            raise rule_error(ONE_ENV_SOURCE)
        return self


VALUE_OR_SOURCE = Rule(
    "!(has(self.value) && has(self.valueFrom))",
    "set value or valueFrom, not both",
    "valueFrom",
)


class EnvVar(Section):
    """An environment variable of the trainer."""

    model_config = ConfigDict(json_schema_extra=cel_rules(VALUE_OR_SOURCE))

    name: EnvName
    """The variable's name."""
    value: Annotated[str, Field(max_length=32_768)] | None = None
    """Its value. Unset: see valueFrom."""
    value_from: EnvVarSource | None = None
    """Where its value comes from. Unset: see value."""

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if self.value is not None and self.value_from is not None:
            raise rule_error(VALUE_OR_SOURCE)
        return self


class ObjectRef(Section):
    """A Secret or ConfigMap by name."""

    name: ObjectName
    """The object's name."""
    optional: bool = False
    """Start without it where it is missing. Off: a missing object is an error."""


ONE_ENV_FROM = Rule(
    "(has(self.secretRef)) != (has(self.configMapRef))",
    "set exactly one of secretRef and configMapRef",
)


class EnvFromSource(Section):
    """All keys of a Secret or ConfigMap as environment variables."""

    model_config = ConfigDict(json_schema_extra=cel_rules(ONE_ENV_FROM))

    prefix: Annotated[str, Field(max_length=253)] | None = None
    """Put before each key. Unset: nothing."""
    secret_ref: ObjectRef | None = None
    """A Secret. Unset: not from a Secret."""
    config_map_ref: ObjectRef | None = None
    """A ConfigMap. Unset: not from a ConfigMap."""

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if (self.secret_ref is None) == (self.config_map_ref is None):
            raise rule_error(ONE_ENV_FROM)
        return self


class ClaimSource(Section):
    """A PersistentVolumeClaim in the job's namespace."""

    claim_name: ObjectName
    """The claim's name."""
    read_only: bool = False
    """Mount without the right to write. Off: writable."""


class ConfigMapSource(Section):
    """A ConfigMap as files."""

    name: ObjectName
    """The ConfigMap's name."""


class SecretSource(Section):
    """A Secret as files."""

    secret_name: ObjectName
    """The Secret's name."""


class EmptyDirSource(Section):
    """An empty folder that lives as long as the pod."""

    medium: Literal["", "Memory"] = ""
    """`Memory`: in RAM, counted against the memory limit. Empty: on the node's disk."""
    size_limit: Quantity | None = None
    """Its largest size. Unset: the node's."""


VOLUME_SOURCES = ("persistentVolumeClaim", "configMap", "secret", "emptyDir")
ONE_VOLUME_SOURCE = Rule(
    "[" + ", ".join(f"has(self.{s})" for s in VOLUME_SOURCES) + "].filter(x, x).size() == 1",
    "set exactly one of persistentVolumeClaim, configMap, secret and emptyDir",
)
RESERVED_VOLUME_NAME = Rule(
    f"!(self.name in [{', '.join(repr(name) for name in RESERVED_VOLUMES)}])",
    f"the operator's own volumes are named {', '.join(RESERVED_VOLUMES)}: choose another name",
    "name",
)


class Volume(Section):
    """A volume of the pod; host paths are not offered."""

    model_config = ConfigDict(json_schema_extra=cel_rules(ONE_VOLUME_SOURCE, RESERVED_VOLUME_NAME))

    name: DnsLabel
    """The volume's name, for volumeMounts."""
    persistent_volume_claim: ClaimSource | None = None
    """A PersistentVolumeClaim. Unset: not one."""
    config_map: ConfigMapSource | None = None
    """A ConfigMap. Unset: not one."""
    secret: SecretSource | None = None
    """A Secret. Unset: not one."""
    empty_dir: EmptyDirSource | None = None
    """An empty folder. Unset: not one."""

    @model_validator(mode="after")
    def _rules(self) -> Self:
        sources = (self.persistent_volume_claim, self.config_map, self.secret, self.empty_dir)
        if sum(source is not None for source in sources) != 1:
            raise rule_error(ONE_VOLUME_SOURCE)
        if self.name in RESERVED_VOLUMES:
            raise rule_error(RESERVED_VOLUME_NAME)
        return self


class VolumeMount(Section):
    """Where a volume appears in the trainer's container."""

    name: DnsLabel
    """The volume's name."""
    mount_path: AbsolutePath
    """Its folder in the container."""
    sub_path: SubPath | None = None
    """Mount only this folder of the volume. Unset: its root."""
    read_only: bool = False
    """Mount without the right to write. Off: writable."""


class LocalObjectRef(Section):
    """An object in the job's namespace."""

    name: ObjectName
    """Its name."""


MOUNT_NEEDS_VOLUME = Rule(
    "!(has(self.volumeMounts)) || self.volumeMounts.all(m, has(self.volumes)"
    " && self.volumes.exists(v, v.name == m.name))",
    "a mount names a volume that is not in volumes: add it there",
    "volumeMounts",
)


REQUIRED_AFFINITY = "requiredDuringSchedulingIgnoredDuringExecution"
POD_AFFINITY = Rule(
    "",  # the schema says nothing of what is in it, so no rule of the API server's can
    f"must be a mapping, and its {REQUIRED_AFFINITY} a list, which topologyKey is added to",
    "affinity.podAffinity",
)


class RuntimeSpec(Section):
    """Where the job runs."""

    model_config = ConfigDict(json_schema_extra=cel_rules(MOUNT_NEEDS_VOLUME))

    image: Annotated[str, Field(max_length=1024)] = ""
    """The trainer image. Empty: the operator's default for the backend."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """When the image is pulled. Unset: Kubernetes' default for its tag."""
    nodes: Nodes = 1
    """Pods of the gang. 1: one machine."""
    gpus_per_node: Annotated[int, Field(ge=0, le=64)] = 1
    """GPUs of each pod, and its training processes. 0: CPU only."""
    processes_per_node: Annotated[int, Field(ge=1, le=64)] | None = None
    """Training processes of each pod. Unset: one per GPU, or one on a CPU."""
    gpu_resource: ExtendedResource = "nvidia.com/gpu"
    """The extended resource that counts GPUs. nvidia.com/gpu: NVIDIA's device plugin."""
    resources: ResourceRequirements = ResourceRequirements()
    """Compute resources of each pod, besides its GPUs."""
    node_selector: Labels = {}
    """Labels that a node must have. Empty: any node."""
    tolerations: Annotated[list[Toleration], Field(max_length=32)] = []
    """Taints that the pods tolerate. Empty: none besides the cluster's own."""
    affinity: Annotated[dict[str, Any], Field(max_length=3)] = {}
    """`pod.spec.affinity`, passed on as it is. Empty: none."""
    topology_key: LabelKey | None = None
    """A node label, such as `topology.kubernetes.io/zone`: all pods of the gang go to nodes with
    the same value of it. Unset: anywhere."""
    priority_class_name: ObjectName | None = None
    """The pods' PriorityClass. Unset: the cluster's default."""
    scheduler_name: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """The scheduler. Unset: the cluster's default."""
    runtime_class_name: ObjectName | None = None
    """The RuntimeClass, such as `nvidia`. Unset: the cluster's default."""
    service_account_name: ObjectName | None = None
    """The pods' service account; its token is not mounted. Unset: the namespace's default."""
    image_pull_secrets: Annotated[list[LocalObjectRef], Field(max_length=16)] = []
    """Secrets with registry credentials. Empty: none."""
    env: Annotated[list[EnvVar], Field(max_length=128)] = []
    """Environment variables. Empty: the operator's own alone."""
    env_from: Annotated[list[EnvFromSource], Field(max_length=32)] = []
    """Secrets and ConfigMaps whose keys become variables. Empty: none."""
    volumes: Annotated[list[Volume], Field(max_length=32)] = []
    """Further volumes. Empty: none."""
    volume_mounts: Annotated[list[VolumeMount], Field(max_length=32)] = []
    """Where the further volumes appear. Empty: nowhere."""
    labels: Labels = {}
    """Further labels of the pods. Empty: none."""
    annotations: Named[Annotated[str, Field(max_length=16_384)]] = {}
    """Further annotations of the pods. Empty: none."""
    shared_memory: Quantity | None = None
    """Size of /dev/shm, which data loaders and NCCL use. Unset: the runtime's 64Mi."""
    lock_memory: bool = False
    """Give the trainer the capability IPC_LOCK, which RDMA needs where the device plugin does not
    raise the limit; its devices are asked for in resources.limits. Off: the restricted Pod Security
    Standard forbids it, and a namespace that enforces it refuses the pods."""

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if not {mount.name for mount in self.volume_mounts} <= {v.name for v in self.volumes}:
            raise rule_error(MOUNT_NEEDS_VOLUME)
        together = self.affinity.get("podAffinity", {})
        if not isinstance(together, dict) or not isinstance(
            together.get(REQUIRED_AFFINITY, []), list
        ):
            raise rule_error(POD_AFFINITY)
        return self

    @property
    def processes(self) -> int:
        """Training processes of each pod."""
        return self.processes_per_node or max(self.gpus_per_node, 1)

    @property
    def world_size(self) -> int:
        """Training processes of all pods."""
        return self.nodes * self.processes
