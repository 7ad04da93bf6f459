"""Which versions a library takes is read from its package."""

import pytest

from aligntune.training.requirements import misfits

REQUIREMENTS = (
    "trl!=0.19.0,<=1.15.0,>=0.18.2",
    'torch<2.15,>=2.4; sys_platform != "none"',
    'torch<1; sys_platform == "none"',
    'transformers<5; extra == "old"',
    "tqdm",
)


@pytest.mark.parametrize("version", ["1.15.0", "0.18.2", "1.15.0rc1"])
def test_a_version_in_the_range_fits(version: str) -> None:
    assert misfits(REQUIREMENTS, {"trl": version, "torch": "2.14.1+cpu"}) == []


@pytest.mark.parametrize("version", ["1.16.0", "0.19.0", "0.18.1"])
def test_a_version_outside_is_told_with_the_range(version: str) -> None:
    [told] = misfits(REQUIREMENTS, {"trl": version, "torch": "2.14.1"})
    assert told == f"trl !=0.19.0,<=1.15.0,>=0.18.2 ({version} is installed)"


def test_what_only_an_extra_or_another_machine_wants_does_not_count() -> None:
    assert misfits(REQUIREMENTS, {"transformers": "5.17.0", "torch": "2.4", "tqdm": "1"}) == []
