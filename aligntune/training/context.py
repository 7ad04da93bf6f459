"""What surrounds a trainer: who it trains for, whom it tells, and who may stop it."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from aligntune.api.progress import Snapshot
from aligntune.training.preemption import Preemption


def do_nothing(*_: object) -> None:
    """A callback where there is nobody to tell or to ask."""


@dataclass(frozen=True)
class RunContext:
    """The surroundings of a run; the default is a notebook or a script on one machine."""

    name: str = "local"
    """The job's name: in trackers, where the config gives none, and in the model card."""
    report: Callable[[Snapshot], None] = do_nothing
    """Told where the run stands, by every process of it."""
    preemption: Preemption = field(default_factory=Preemption)
    """Asked after each step, and before each batch of an evaluation, whether to stop."""
    check_owner: Callable[[], None] = do_nothing
    """Called before anything is written that others rely on; raises SupersededError once the
    output folder is another's."""
    lineage: Mapping[str, str] = field(default_factory=dict)
    """Which AlignTuneJob a model is of, by its name in the config."""


def rank() -> int:
    """This process's number in the gang, as the launcher set it; 0 is the first."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """This process's number on its machine, and so its GPU's."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """How many processes train together, as the launcher set it."""
    return int(os.environ.get("WORLD_SIZE", "1"))
