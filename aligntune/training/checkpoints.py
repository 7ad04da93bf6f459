"""Checkpoints that can be trusted: a manifest, written last, says that all of it is there."""

import logging
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ConfigDict, Field, ValidationError

from aligntune.core.config.base import Section
from aligntune.core.errors import ConfigError
from aligntune.core.files import (
    REPLACED,
    UNFINISHED,
    replace_file,
    replace_folder,
    settle,
    unfinished_in,
)
from aligntune.core.rl.config import SAMPLING, UnifiedConfig
from aligntune.core.sft.config import SFTConfig

MANIFEST = "complete.json"
"""Written last; a checkpoint without it is not one."""

NOT_PART_OF_A_RUN: Any = {
    "output_dir": True,
    "checkpoint": True,
    "logging": True,
    "model": {"gguf": True},
}
"""What may change between attempts: where files go, which and how often, not what is computed."""

ROWS = "perDeviceBatchSize x gradientAccumulationSteps"

PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate")
"""Packages whose versions decide whether a resumed run repeats an uninterrupted one exactly."""
WHERE_IMPORTED = ("unsloth", "unsloth_zoo")
"""The same of those that change the others, in processes that train with them."""

_log = logging.getLogger(__name__)


class Manifest(Section):
    """What a complete checkpoint consists of and which run it belongs to.

    What another version has said besides is passed over: its checkpoints are gone on with.
    """

    model_config = ConfigDict(extra="ignore")

    step: int
    """Optimizer steps done."""
    samples: int = 0
    """Sequences trained on so far, over all processes."""
    tokens: int = 0
    """Tokens trained on so far, over all processes, without padding."""
    training_seconds: float = 0.0
    """Time spent in these steps."""
    world_size: int
    """Processes that trained."""
    strategy: str
    """How they shared the model."""
    config: dict[str, Any]
    """`identity` of the config; tells which field differs."""
    files: dict[str, int]
    """Size in bytes of each file."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Versions of the packages that trained."""
    inputs: dict[str, str] = Field(default_factory=dict)
    """Fingerprint of what `model` and `datasets` named."""


class Found(NamedTuple):
    """A checkpoint on disk."""

    step: int
    path: Path


class Checkpoints:
    """The checkpoints of one run, in its output folder."""

    def __init__(
        self,
        config: SFTConfig | UnifiedConfig,
        world_size: int,
        check_owner: Callable[[], None] = lambda: None,
    ) -> None:
        self.check_owner = check_owner
        self.folder = Path(config.output_dir)
        self.unfinished = unfinished_in(self.folder)
        """Where checkpoints are written; all processes of a run must use that of the first."""
        self._policy = config.checkpoint
        self.strategy = config.distributed.strategy
        self._world_size = world_size
        self._config = identity(config)
        self.inputs: dict[str, str] = {}
        """Fingerprint of what `model` and `datasets` name, once they are loaded."""

    def path(self, step: int) -> Path:
        """The folder of the checkpoint at `step`."""
        return self.folder / f"checkpoint-{step}"

    def unfinished_path(self, step: int) -> Path:
        """The same while it is written; transformers gives it its name."""
        return self.unfinished / f"checkpoint-{step}"

    def to_resume(self) -> Path | None:
        """The newest complete checkpoint, as far as `checkpoint.resume` wants one.

        Raises:
            ConfigError: It belongs to another config, world size or strategy.
        """
        if self._policy.resume == "never":
            return None
        for found in sorted(self._all(), reverse=True):
            if problem := broken(found.path):
                _log.warning("%s is not used: %s", found.path, problem)
                continue
            self.check(found.path)
            return found.path
        return None

    def check(self, path: Path) -> None:
        """Refuse a checkpoint of another run, unless `checkpoint.resume` is force.

        Raises:
            ConfigError: It is incomplete, or of another config, world size or strategy.
        """
        if problem := broken(path):
            raise ConfigError(f"checkpoint {path} cannot be used: {problem}")
        manifest = read(path)
        if manifest.versions != (versions := installed()):
            changed = [name for name in versions if manifest.versions.get(name) != versions[name]]
            _log.warning("%s was written by other versions of %s", path, ", ".join(changed))
        difference = self._difference(manifest)
        if difference and self._policy.resume != "force":
            raise ConfigError(
                f"checkpoint.resume: {path} belongs to another run: {difference}. Use another"
                " outputDir, or set resume to never (start anew) or force (go on all the same)"
            )

    def tell_changes(self, path: Path, *, steps_left: int) -> None:
        """Warn where the run goes on from a checkpoint of another base model or other rows.

        It is not refused: a name on the hub may have moved on while a job was preempted.
        """
        before = read(path).inputs
        changed = [name for name, now in self.inputs.items() if before.get(name, now) != now]
        if changed:
            _log.warning(
                "changed since %s was saved: %s; %s, and checkpoint.resume: never begins anew",
                path.name,
                ", ".join(changed),
                "training goes on from there" if steps_left else "nothing is left to train",
            )

    def commit(
        self,
        step: int,
        *,
        best: Path | None,
        samples: int,
        tokens: int,
        training_seconds: float = 0.0,
    ) -> Path:
        """Complete the checkpoint at `step`, put it in its place, and remove those too many.

        Every process must have written its part. `best` is kept whatever its age.

        Raises:
            SupersededError: The folder is another attempt's by now.
            OSError: The disk is full.
        """
        self.check_owner()
        path = self.unfinished_path(step)
        settle(path)
        manifest = Manifest(
            step=step,
            samples=samples,
            tokens=tokens,
            training_seconds=training_seconds,
            world_size=self._world_size,
            strategy=self.strategy,
            config=self._config,
            files=_sizes(path),
            versions=installed(),
            inputs=self.inputs,
        )
        replace_file(path / MANIFEST, manifest.model_dump_json(indent=2))
        self.check_owner()  # to be on disk may have taken until another took over
        self._make_room(step)
        replace_folder(path, self.path(step))
        self.unfinished.rmdir()
        self._prune(best)
        return self.path(step)

    def discard(self) -> None:
        """Remove what could not be finished; another process may have done so."""
        shutil.rmtree(self.unfinished, ignore_errors=True)

    def clean(self, kept: Path | None) -> None:
        """Before the first step: remove what is incomplete, and what lies beyond `kept`.

        Newer checkpoints are of a future that this attempt will write anew. With
        `checkpoint.resume: never` nothing is kept. What never had a manifest is another program's.
        """
        step = read(kept).step if kept else -1
        for found in self._ours():
            if found.step > step or broken(found.path):
                _remove(found.path)
        for left in (*self.folder.glob(f"{UNFINISHED}*"), *self.folder.glob(f".*{REPLACED}")):
            shutil.rmtree(left, ignore_errors=True)

    def _all(self) -> Iterator[Found]:
        for path in self.folder.glob("checkpoint-*"):
            if match := re.fullmatch(r"checkpoint-(\d+)", path.name):
                yield Found(int(match[1]), path)

    def _ours(self) -> list[Found]:
        """Those that have been complete; they are written and removed under another name."""
        return sorted(found for found in self._all() if (found.path / MANIFEST).is_file())

    def _make_room(self, step: int) -> None:
        """Rename another program's folder that has the name of the checkpoint at `step`."""
        path = self.path(step)
        if path.exists() and not (path / MANIFEST).is_file():
            aside = path.with_name(f"{path.name}-found-{secrets.token_hex(4)}")
            path.rename(aside)
            _log.warning(
                "%s has no %s and so is not of this run: it is %s now", path, MANIFEST, aside
            )

    def _prune(self, best: Path | None) -> None:
        for found in self._ours()[: -self._policy.keep]:
            if found.path != best:
                _remove(found.path)

    def _difference(self, manifest: Manifest) -> str:
        """In words, what makes the manifest one of another run; empty where it is ours."""
        if manifest.world_size != self._world_size:
            return f"it was trained by {manifest.world_size} processes, now {self._world_size}"
        if manifest.strategy != self.strategy:
            return f"its strategy is {manifest.strategy}, now {self.strategy}"
        return "; ".join(
            f"{path} was {before}, now {now}"
            for path, before, now in _differences(manifest.config, self._config)
        )


def identity(config: SFTConfig | UnifiedConfig) -> dict[str, Any]:
    """What is computed: the config without the fields that do not matter to that.

    Without those that stand at their defaults, too: a version with a field more goes on with the
    runs of one without it.

    Only the rows of a step and process count, not in how many forward passes they are taken: a
    smaller `perDeviceBatchSize` with more accumulation is the same run, unless answers are drawn
    in batches of that size.
    """
    found = config.model_dump(mode="json", exclude=NOT_PART_OF_A_RUN, exclude_defaults=True)
    if isinstance(config, UnifiedConfig) and config.algo in SAMPLING:
        return found
    train = found.setdefault("train", {})
    for field in ("gradientAccumulationSteps", "perDeviceBatchSize"):
        train.pop(field, None)
    train[ROWS] = config.train.per_device_batch_size * config.train.gradient_accumulation_steps
    return found


def read(path: Path) -> Manifest:
    """The manifest of a complete checkpoint.

    Raises:
        FileNotFoundError: The checkpoint was not finished.
        pydantic.ValidationError: What stands there is no manifest.
    """
    return Manifest.model_validate_json((path / MANIFEST).read_text("utf-8"))


def broken(path: Path) -> str:
    """Why a checkpoint cannot be used; empty where it is complete."""
    try:
        manifest = read(path)
    except FileNotFoundError:
        return f"it was not finished (no {MANIFEST})"
    except ValidationError:
        return f"its {MANIFEST} cannot be read"
    sizes = _sizes(path)
    for name, size in manifest.files.items():
        if sizes.get(name) != size:
            return f"{name} has {sizes.get(name, 'no')} bytes where {size} were written"
    return ""


def installed() -> dict[str, str]:
    """Versions of the packages that decide the numbers."""
    present = [name for name in WHERE_IMPORTED if name in sys.modules]
    return {name: metadata.version(name) for name in (*PACKAGES, *present)}


def _sizes(path: Path) -> dict[str, int]:
    return {
        str(file.relative_to(path)): file.stat().st_size
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != MANIFEST
    }


def _differences(
    before: dict[str, Any], now: dict[str, Any], path: str = ""
) -> Iterator[tuple[str, str, str]]:
    """The leaves that differ: path, value before, value now, in words."""
    for key in before.keys() | now.keys():
        one, other = before.get(key), now.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            yield from _differences(one, other, f"{path}{key}.")
        elif one != other:
            yield f"{path}{key}", _told(before, key), _told(now, key)


def _told(config: dict[str, Any], key: str) -> str:
    return repr(config[key]) if key in config else "its default"


def _remove(path: Path) -> None:
    """Remove a checkpoint; first its name, so that a half-removed one is never used or kept."""
    nameless = unfinished_in(path.parent)
    path.rename(nameless)
    shutil.rmtree(nameless, ignore_errors=True)
    _log.info("removed %s", path)
