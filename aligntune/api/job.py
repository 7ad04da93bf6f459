"""AlignTuneJob: the spec that people write. What they read is in `status`."""

from typing import Annotated, Literal, Self, cast

from pydantic import ConfigDict, Field, model_validator

from aligntune.api.run import EXACTLY_ONE_METHOD, ONE_PROCESS, Backend, HubPush
from aligntune.api.runtime import DNS_LABEL, KeyRef, ObjectName, RuntimeSpec, SubPath
from aligntune.core.backend_factory import task_of
from aligntune.core.config.base import Rule, Section, cel_rules, rule_error
from aligntune.core.config.training import TrainConfig
from aligntune.core.rl.config import SAMPLING, AlgorithmType, GRPOConfig, RLSpec
from aligntune.core.sft.config import SFTSpec

NAME_MAX_LENGTH = 50
"""Longest metadata.name. The host name of a pod is NAME-HASH-ATTEMPT-INDEX and has at most 63
characters: 50 + 1 + 5 + 1 + 2 + 1 + 3, so 99 attempts of 1000 pods, or 999 of 100."""

TEN_YEARS = 315_360_000
"""Seconds; no wait is longer, and every time reckoned with is one that a date can tell."""

CLAIM_OR_EPHEMERAL = Rule(
    "(has(self.claimName)) != (has(self.ephemeral) && self.ephemeral)",
    "set exactly one of claimName and ephemeral: true",
)


class StorageSpec(Section):
    """Where checkpoints and the model go. Never deleted by the operator."""

    model_config = ConfigDict(json_schema_extra=cel_rules(CLAIM_OR_EPHEMERAL))

    claim_name: ObjectName | None = None
    """A PersistentVolumeClaim in the job's namespace. Unset: see ephemeral."""
    sub_path: SubPath = ""
    """Folder in the claim, which one job at a time may write to. Empty: one of the job's own, from
    its name and UID."""
    ephemeral: bool = False
    """Say that the output may vanish with the pod. Off: losing a model is never a default."""

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if (self.claim_name is None) != self.ephemeral:
            raise rule_error(CLAIM_OR_EPHEMERAL)
        return self


class HubSpec(Section):
    """The model hub."""

    token_secret: KeyRef | None = None
    """The Secret key with the hub's token; only the pod sees it. Unset: anonymous."""
    push: HubPush | None = None
    """Publish the trained model. Unset: it stays on the storage."""


class PolicySpec(Section):
    """What happens when things go wrong, and how long things are kept."""

    max_restarts: Annotated[int, Field(ge=0, le=1000)] = 3
    """Counted restarts before the job fails. 3: a fault that returns three times is no accident."""
    stall_timeout_seconds: Annotated[int, Field(ge=10, le=604_800)] = 900
    """Seconds without a step after which a run counts as hung. 900: longer than any sane step."""
    on_stall: Literal["Report", "Restart", "Fail"] = "Restart"
    """What a hang leads to. Restart: the usual cause is a lost peer."""
    termination_grace_period_seconds: Annotated[int, Field(ge=1, le=86_400)] = 120
    """Seconds between SIGTERM and SIGKILL, for one checkpoint. 120: a 7B model to network
    storage."""
    on_cuda_out_of_memory: Literal["Restart", "HalveBatch"] = "Restart"
    """What follows when a GPU's memory is full. HalveBatch: the next attempt halves
    perDeviceBatchSize and doubles gradientAccumulationSteps, which leaves the loss as it is.
    Restart: memory may have been another's; a batch is never changed unasked."""
    active_deadline_seconds: Annotated[int, Field(ge=1, le=TEN_YEARS)] | None = None
    """Longest time that all attempts together may hold pods, in seconds; waiting in a queue, for a
    restart or suspended does not count. Unset: no limit."""
    start_timeout_seconds: Annotated[int, Field(ge=1, le=TEN_YEARS)] | None = None
    """Longest wait for every pod of an attempt to run, in seconds; then its pods are let go and
    the next attempt waits its turn. Unset: no limit."""
    pod_retention_seconds: Annotated[int, Field(ge=0, le=TEN_YEARS)] = 86_400
    """Seconds after the end until the Job and its pods are removed; the AlignTuneJob stays.
    86400: logs for a day."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=TEN_YEARS)] | None = None
    """Seconds after the end until the AlignTuneJob itself is deleted. Unset: never."""


STORAGE_OR_PUSH = Rule(
    "(has(self.storage)) || (has(self.hub) && has(self.hub.push))",
    "the trained model would be lost: set storage.claimName, hub.push, or storage.ephemeral: true",
    "storage",
)
PUSH_NEEDS_TOKEN = Rule(
    "!(has(self.hub) && has(self.hub.push)) || (has(self.hub.tokenSecret))",
    "pushing needs a token: set hub.tokenSecret",
    "hub",
)


def _shards(section: str) -> str:
    return (
        f"has(self.{section}) && has(self.{section}.distributed)"
        f" && has(self.{section}.distributed.strategy)"
        f" && self.{section}.distributed.strategy != 'ddp'"
    )


SHARDS_OVER_SEVERAL = Rule(
    f"!({_shards('sft')} || {_shards('rl')})"
    " || (has(self.runtime) && ((has(self.runtime.nodes) && self.runtime.nodes > 1)"
    " || (has(self.runtime.processesPerNode) ? self.runtime.processesPerNode > 1"
    " : has(self.runtime.gpusPerNode) && self.runtime.gpusPerNode > 1)))",
    "fsdp2, zero2 and zero3 share one model among several processes: raise gpusPerNode or nodes, or"
    " leave distributed.strategy at ddp",
    "runtime",
)


HALVING_KEEPS_SAMPLES = Rule(
    "!(has(self.policy) && has(self.policy.onCudaOutOfMemory)"
    " && self.policy.onCudaOutOfMemory == 'HalveBatch')"
    " || !(has(self.rl) && self.rl.algo in ['ppo', 'grpo'])",
    "ppo and grpo draw their answers in batches of perDeviceBatchSize, so a smaller one makes"
    " another run: leave onCudaOutOfMemory at Restart",
    "policy.onCudaOutOfMemory",
)


def _set_or(path: str, default: object) -> str:
    """CEL for a field two sections below `spec`, the first of which is there."""
    section = path.rpartition(".")[0]
    return f"(has({section}) && has({path}) ? {path} : {default})"


_GRPO, _TRAIN = GRPOConfig(), TrainConfig()
GRPO_STEP_SPLITS = Rule(
    "!(has(self.rl) && self.rl.algo == 'grpo')"
    f" || {_set_or('self.rl.grpo.promptsPerStep', _GRPO.prompts_per_step)}"
    f" * {_set_or('self.rl.grpo.numGenerations', _GRPO.num_generations)}"
    f" % ({_set_or('self.rl.train.perDeviceBatchSize', _TRAIN.per_device_batch_size)}"
    f" * {_set_or('self.runtime.nodes', 1)}"
    " * (has(self.runtime) && has(self.runtime.processesPerNode) ? self.runtime.processesPerNode"
    " : has(self.runtime) && has(self.runtime.gpusPerNode) && self.runtime.gpusPerNode > 1"
    " ? self.runtime.gpusPerNode : 1)) == 0",
    "promptsPerStep x numGenerations completions cannot be split evenly over all processes x"
    " train.perDeviceBatchSize: change one of them",
    "rl.grpo.promptsPerStep",
)


class AlignTuneJobSpec(Section):
    """What to train, on what, where, and what to do when it fails."""

    model_config = ConfigDict(
        json_schema_extra=cel_rules(
            EXACTLY_ONE_METHOD,
            STORAGE_OR_PUSH,
            PUSH_NEEDS_TOKEN,
            SHARDS_OVER_SEVERAL,
            HALVING_KEEPS_SAMPLES,
            GRPO_STEP_SPLITS,
            ONE_PROCESS,
        )
    )

    backend: Backend = "trl"
    """The library that trains; never silently replaced by the other. trl: runs everywhere."""
    sft: SFTSpec | None = None
    """Supervised fine-tuning or classification. Exactly one of sft and rl."""
    rl: RLSpec | None = None
    """DPO, PPO, GRPO or a reward model. Exactly one of sft and rl."""
    runtime: RuntimeSpec = RuntimeSpec()
    """Where it runs."""
    storage: StorageSpec | None = None
    """Where checkpoints and the model go. Unset: nowhere, which needs hub.push."""
    hub: HubSpec = HubSpec()
    """The model hub."""
    policy: PolicySpec = PolicySpec()
    """What happens when things go wrong, and how long things are kept."""
    suspend: bool = False
    """Stop after a checkpoint and hold no pod until it is false again."""

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if (self.sft is None) == (self.rl is None):
            raise rule_error(EXACTLY_ONE_METHOD)
        if self.storage is None and self.hub.push is None:
            raise rule_error(STORAGE_OR_PUSH)
        if self.hub.push is not None and self.hub.token_secret is None:
            raise rule_error(PUSH_NEEDS_TOKEN)
        processes = self.runtime.world_size
        if self.method.distributed.strategy != "ddp" and processes == 1:
            raise rule_error(SHARDS_OVER_SEVERAL)
        halves = self.policy.on_cuda_out_of_memory == "HalveBatch"
        if halves and self.rl is not None and self.rl.algo in SAMPLING:
            raise rule_error(HALVING_KEEPS_SAMPLES)
        if self.rl is not None and self.rl.algo == AlgorithmType.GRPO:
            grpo = self.rl.grpo or _GRPO
            completions = grpo.prompts_per_step * grpo.num_generations
            if completions % (self.rl.train.per_device_batch_size * processes):
                raise rule_error(GRPO_STEP_SPLITS)
        if self.backend == "unsloth" and max(processes, self.runtime.gpus_per_node) > 1:
            raise rule_error(ONE_PROCESS)
        return self

    @property
    def method(self) -> SFTSpec | RLSpec:
        """The one section that is set."""
        return cast("SFTSpec | RLSpec", self.sft or self.rl)

    @property
    def task(self) -> str:
        """`sft`, `classification`, or the algorithm's name."""
        return task_of(self.method)


class Metadata(Section):
    """The part of a manifest's metadata that matters here."""

    model_config = ConfigDict(extra="ignore")

    name: Annotated[
        str,
        Field(min_length=1, max_length=NAME_MAX_LENGTH, pattern=DNS_LABEL),
    ]
    """Name of the job: lower case letters, digits and '-', at most 50 characters."""
    namespace: Annotated[str, Field(max_length=63)] = "default"
    """Namespace. default: kubectl's."""
    labels: dict[str, str] = {}
    """Labels; those for a queue (kueue.x-k8s.io/) go on to the Job."""


class Manifest(Section):
    """A whole AlignTuneJob as a person writes it."""

    api_version: Literal["aligntune.io/v1alpha1"]
    """aligntune.io/v1alpha1."""
    kind: Literal["AlignTuneJob"]
    """AlignTuneJob."""
    metadata: Metadata
    """Name and namespace."""
    spec: AlignTuneJobSpec
    """What to train."""
