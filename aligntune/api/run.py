"""The file that `aligntune launch` and `aligntune train` read: one attempt, fully resolved."""

from typing import Annotated, Literal, Self, cast

from pydantic import Field, model_validator

from aligntune.api.runtime import Nodes
from aligntune.core.backend_factory import task_of
from aligntune.core.config.base import Rule, Section, rule_error
from aligntune.core.rl.config import UnifiedConfig
from aligntune.core.sft.config import SFTConfig

Backend = Literal["trl", "unsloth"]

EXACTLY_ONE_METHOD = Rule(
    "(has(self.sft)) != (has(self.rl))",
    "set exactly one of sft (supervised) and rl (dpo, ppo, grpo, reward)",
)

ONE_PROCESS = Rule(
    "!(has(self.backend) && self.backend == 'unsloth') || !has(self.runtime)"
    " || !((has(self.runtime.nodes) && self.runtime.nodes > 1)"
    " || (has(self.runtime.gpusPerNode) && self.runtime.gpusPerNode > 1)"
    " || (has(self.runtime.processesPerNode) && self.runtime.processesPerNode > 1))",
    "unsloth trains in one process, on one GPU at most: lower nodes, gpusPerNode and"
    " processesPerNode to 1, or use backend: trl",
    "runtime",
)


_REPO_WORD = "[A-Za-z0-9_]([A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
REPO_ID = f"^({_REPO_WORD}/)?{_REPO_WORD}$"
"""What the hub takes as a repository's name: OWNER/NAME, or the name alone."""


class JobIdentity(Section):
    """Which AlignTuneJob a run belongs to."""

    name: Annotated[str, Field(max_length=253)] = "local"
    """metadata.name. local: a run without a manifest."""
    namespace: Annotated[str, Field(max_length=63)] = ""
    """metadata.namespace. Empty: not on a cluster."""
    uid: Annotated[str, Field(max_length=64)] = ""
    """metadata.uid. Empty: not on a cluster."""


class HubPush(Section):
    """Publishing the trained model."""

    repo_id: Annotated[str, Field(min_length=1, max_length=193, pattern=REPO_ID)]
    """Repository on the hub, such as `acme/support-bot`."""
    private: bool = True
    """Create it as a private repository. On: publishing is a decision."""


class RunConfig(Section):
    """All that one attempt needs to know."""

    backend: Backend = "trl"
    """The library that trains. trl: runs everywhere."""
    sft: SFTConfig | None = None
    """The supervised run; exactly one of sft and rl."""
    rl: UnifiedConfig | None = None
    """The RL run; exactly one of sft and rl."""
    job: JobIdentity = JobIdentity()
    """Which AlignTuneJob this is."""
    attempt: Annotated[int, Field(ge=1)] = 1
    """Number of the attempt."""
    nodes: Nodes = 1
    """Pods of the gang."""
    processes_per_node: Annotated[int, Field(ge=1, le=64)] = 1
    """Ranks in each pod."""
    master_address: Annotated[str, Field(max_length=253)] = "127.0.0.1"
    """Host of rank 0, for torch.distributed. 127.0.0.1: one pod."""
    push: HubPush | None = None
    """Where the trained model is published, with the token in HF_TOKEN. Unset: nowhere."""
    lineage: Annotated[dict[str, str], Field(max_length=3)] | None = None
    """Which AlignTuneJob a model is of, by its name in this config. Unset: of none."""
    storage_root: Annotated[str, Field(max_length=4096)] = ""
    """The folder that paths in status are relative to. Empty: they are as given."""
    stall_timeout_seconds: Annotated[int, Field(ge=1)] | None = None
    """Longest time without a step. Unset: hangs are not looked for."""
    on_stall: Literal["Report", "Restart", "Fail"] = "Restart"
    """What a hang leads to."""

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if (self.sft is None) == (self.rl is None):
            raise rule_error(EXACTLY_ONE_METHOD)
        if self.backend == "unsloth" and self.nodes * self.processes_per_node > 1:
            raise rule_error(ONE_PROCESS._replace(field="processesPerNode"))
        return self

    @property
    def method(self) -> SFTConfig | UnifiedConfig:
        """The one config that is set."""
        return cast("SFTConfig | UnifiedConfig", self.sft or self.rl)

    @property
    def task(self) -> str:
        """`sft`, `classification`, or the algorithm's name."""
        return task_of(self.method)
