"""A trainer image and an operator of two versions: what one writes, the other reads."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aligntune.api.causes import Cause
from aligntune.api.conditions import Phase
from aligntune.api.env import CONFIG_ANNOTATION
from aligntune.api.job import AlignTuneJobSpec
from aligntune.api.run import JobIdentity, RunConfig
from aligntune.core.sft.config import SFTConfig, SFTTrainConfig
from aligntune.pod.attempt import CannotStartError, read_run_config
from aligntune_operator.observe import Key
from aligntune_operator.render.config import run_config
from aligntune_operator.render.pod import pod_template
from aligntune_operator.settings import Settings
from aligntune_operator.status.reduce import reduce_status
from tests.cluster.processes import REPOSITORY
from tests.golden.test_golden import observed_in

SFT = {"model": {"name": "m"}, "datasets": [{"name": "d"}]}
SPEC = AlignTuneJobSpec.parse({"sft": SFT, "storage": {"claimName": "c"}})


class LaterTrainConfig(SFTTrainConfig):
    noise: float = 0.0
    """A field of a version to come."""


class LaterSFTConfig(SFTConfig):
    train: LaterTrainConfig = LaterTrainConfig()


class LaterRunConfig(RunConfig):
    sft: LaterSFTConfig | None = None
    elastic: bool = False
    """A field of a version to come."""


def file_of(config: RunConfig, folder: Path) -> Path:
    """What the pod reads, as the operator writes it."""
    template = pod_template(config, SPEC, {}, Settings(_env_file=None), ())
    file = folder / "run.json"
    file.write_text(template["metadata"]["annotations"][CONFIG_ANNOTATION])
    return file


def later(**train: Any) -> LaterRunConfig:
    sft = LaterSFTConfig.parse(SFT | {"train": {"seed": 7} | train, "outputDir": "out"})
    return LaterRunConfig(sft=sft, job=JobIdentity(name="job", namespace="default", uid="1-2"))


def test_a_trainer_reads_all_that_its_operator_means(tmp_path: Path) -> None:
    config = run_config(Key("default", "job"), "1-2", SPEC, 2)
    assert read_run_config(file_of(config, tmp_path)) == config


def test_an_older_trainer_reads_what_it_knows(tmp_path: Path) -> None:
    read = read_run_config(file_of(later(), tmp_path))
    assert read.sft is not None
    assert read.sft.train.seed == 7
    assert read.job.uid == "1-2"


def test_what_an_older_trainer_cannot_do_is_refused_with_the_remedy(tmp_path: Path) -> None:
    file = file_of(later(noise=0.1), tmp_path)
    with pytest.raises(CannotStartError) as refused:
        read_run_config(file)
    assert refused.value.cause is Cause.CONFIG_ERROR
    assert str(refused.value) == (
        f"{file}: sft.train.noise: the operator knows this field, and this trainer does not: use an"
        " image of the operator's version, or remove the field from the manifest"
    )


def test_the_end_of_a_job_that_an_older_operator_cannot_read_is_left_to_the_newer_one() -> None:
    newer, now = observed_in(REPOSITORY / "tests/golden/succeeded")
    older = replace(newer, spec=None, errors=("spec.sft.train.noise: unknown field",))
    between = reduce_status(older, now)
    after = reduce_status(replace(newer, object=replace(newer.object, status=between)), now)
    assert (between.phase, after.phase) == (Phase.RUNNING, Phase.SUCCEEDED)
    assert after.failure is None
