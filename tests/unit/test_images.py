"""What the images say of themselves."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
IMAGES = REPOSITORY / "images"


@pytest.mark.parametrize("image", ["operator", "trainer"])
def test_an_image_names_its_version_and_the_commit_that_it_is_built_from(image: str) -> None:
    text = (IMAGES / image / "Containerfile").read_text()
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="(.*)"', text))
    assert labels.keys() == {"title", "description", "licenses", "version", "revision"}
    for label in ("version", "revision"):
        argument = label.upper()
        assert labels[label] == f"${{{argument}}}"
        # An argument is its stage's: it holds in the one that declares it.
        [stage] = [part for part in text.split("\nFROM ") if f"image.{label}=" in part]
        assert re.search(rf"^ARG {argument}=", stage, re.MULTILINE)


PYTHON_OF_DEBIAN = {"bookworm": "3.11"}


@pytest.mark.parametrize("image", ["operator", "trainer"])
def test_the_packages_of_an_image_are_listed_for_its_own_python(image: str) -> None:
    text = (IMAGES / image / "Containerfile").read_text()
    [release] = re.findall(r"^ARG BASE=debian:(\w+)-slim$", text, re.MULTILINE)
    [listed] = re.findall(r"uv venv .*--python (\S+)", (REPOSITORY / "Makefile").read_text())
    assert listed == PYTHON_OF_DEBIAN[release]


def test_what_every_image_installs_is_listed() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    recipe = makefile.partition("\nsbom:")[2].partition("\n\n")[0]
    operator, trainer = (
        (IMAGES / image / "Containerfile").read_text() for image in ("operator", "trainer")
    )
    [listed] = re.findall(r"for image in .*IMAGES\),(.*?)\);", recipe)
    targets = re.findall(r"^FROM bare-\w+ AS (trl|unsloth)$", trainer, re.MULTILINE)
    assert listed.split() == ["operator", *targets]
    # The recipe asks for the extra of each one's name, and for trl's in place of unsloth's.
    assert re.findall(r"'\.\[(\w+)\]'", operator + trainer) == ["operator", "trl"]
    assert '".[$${image/unsloth/trl}]"' in recipe
    [apart] = re.findall(r"--target /opt/aligntune/unsloth (.*)$", trainer, re.MULTILINE)
    assert f"--no-deps {apart}; " in recipe
