"""YAML that kubectl reads as it was meant."""

from collections.abc import Iterable
from typing import TextIO

from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter

from aligntune.api.manifest import BOOLEANS_OF_YAML_1_1


class _Representer(RoundTripRepresenter):
    """Puts strings in quotes where Kubernetes' Go libraries, of YAML 1.1, would read a boolean."""


def _string(representer: RoundTripRepresenter, text: str) -> ScalarNode:
    quotes = "'" if text.lower() in BOOLEANS_OF_YAML_1_1 else None
    return representer.represent_scalar("tag:yaml.org,2002:str", text, style=quotes)


_Representer.add_representer(str, _string)


def write_yaml(documents: Iterable[object], stream: TextIO, width: int | None = None) -> None:
    """Writes documents of plain values.

    Args:
        documents: What to write.
        stream: Where to.
        width: Characters after which lines are folded; None: ruamel.yaml's.
    """
    yaml = YAML()
    yaml.Representer = _Representer
    if width is not None:
        yaml.width = width
    yaml.dump_all(documents, stream)
