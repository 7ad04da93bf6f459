"""Reading manifests and config files: what is wrong is said with file, line and field."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedBase
from ruamel.yaml.error import MarkedYAMLError

from aligntune.api.job import Manifest
from aligntune.api.labels import KIND
from aligntune.api.run import RunConfig
from aligntune.core.config.base import Section
from aligntune.core.config.errors import Mistake, mistakes
from aligntune.core.errors import ConfigError

S = TypeVar("S", bound=Section)


class ManifestError(ConfigError):
    """A file is not what it should be; one line of text for each mistake."""


def read_manifests(path: Path) -> list[Manifest]:
    """Every AlignTuneJob in a YAML or JSON file; other kinds in it are passed over.

    Raises:
        ManifestError: It cannot be read, holds no AlignTuneJob, or one that is not valid.
    """
    documents = [document for document in _documents(path) if document is not None]
    ours = [d for d in documents if not isinstance(d, dict) or d.get("kind", KIND) == KIND]
    if not ours:
        raise ManifestError(f"{path}: no {KIND} in this file")
    return [_parse(Manifest, document, path) for document in ours]


def read_run_config(path: Path) -> RunConfig:
    """The one RunConfig in a YAML or JSON file.

    Raises:
        ManifestError: It cannot be read, or is not valid.
    """
    documents = list(_documents(path))
    if len(documents) != 1:
        raise ManifestError(f"{path}: one document expected, found {len(documents)}")
    return _parse(RunConfig, documents[0], path)


def _documents(path: Path) -> Iterator[Any]:
    try:
        text = path.read_text(encoding="utf-8")
        # The round-trip loader reads YAML 1.2, as Kubernetes does (2e-4 is a number there, a string
        # to YAML 1.1 readers), makes plain values only, and remembers lines.
        yield from YAML(typ="rt").load_all(text)
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not a text file (UTF-8 expected)") from error
    except MarkedYAMLError as error:
        mark = error.problem_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ManifestError(f"{path}{line}: malformed YAML: {error.problem}") from error


def _parse(model: type[S], document: object, path: Path) -> S:
    try:
        return model.parse(document)
    except ValidationError as error:
        found = mistakes(error, model)
        lines = (f"{path}:{_line(document, mistake)}: {mistake}" for mistake in found)
        raise ManifestError("\n".join(lines)) from error


def _line(document: object, mistake: Mistake) -> int:
    """The line of the field, or of the innermost section around it that is there."""
    line = document.lc.line + 1 if isinstance(document, CommentedBase) else 1
    node = document
    for part in mistake.location:
        try:
            position = node.lc.key(part) if isinstance(part, str) else node.lc.item(part)  # type: ignore[attr-defined]
            line = position[0] + 1
            node = node[part]  # type: ignore[index]
        except (AttributeError, KeyError, IndexError, TypeError):
            break
    return line
