"""Reading manifests and config files: what is wrong is said with file, line and field."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from aligntune.api.job import Manifest
from aligntune.api.labels import KIND
from aligntune.api.run import RunConfig
from aligntune.core.backend_factory import check_supported
from aligntune.core.config.base import plain
from aligntune.core.config.errors import Location, Mistake, mistake_at, mistakes
from aligntune.core.errors import ConfigError, UnsupportedError

OLDER_THAN_THE_OPERATOR = (
    "the operator knows this field, and this trainer does not: use an image of the operator's"
    " version, or remove the field from the manifest"
)

BOOLEANS_OF_YAML_1_1 = {"y", "n", "yes", "no", "on", "off"}
"""Words, in whatever case, that kubectl takes for true or false where they have no quotes."""

SERVERS_METADATA = {
    "creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "generation",
    "managedFields", "resourceVersion", "selfLink", "uid",
}  # fmt: skip
"""What the API server writes into an object's metadata: it knows one version of one object."""

STDIN = Path("/dev/stdin")


class ManifestError(ConfigError):
    """A file is not what it should be; one line of text for each mistake."""


def read_manifests(path: Path) -> list[Manifest]:
    """Every AlignTuneJob in a YAML or JSON file; errors as `read_documents`."""
    return [manifest for manifest, _ in read_documents(path)]


def read_documents(path: Path) -> list[tuple[Manifest, dict[str, Any]]]:
    """Every AlignTuneJob in a YAML or JSON file (-: standard input), with all that a person wrote
    there; other kinds in it are passed over.

    Raises:
        ManifestError: It cannot be read, holds no AlignTuneJob, or some that are not valid or that
            this version has no trainer for.
    """
    documents = [item for document in read_yaml(path) for item in _items(document)]
    ours = [d for d in documents if not isinstance(d, dict) or d.get("kind", KIND) == KIND]
    if not ours:
        raise ManifestError(f"{path}: no {KIND} in this file")
    found: list[tuple[Manifest, dict[str, Any]]] = []
    wrong: list[str] = []
    for document in ours:
        try:
            manifest = Manifest.parse(_as_written(document))
            check_supported(manifest.spec.backend, manifest.spec.method)
        except ValidationError as error:
            wrong += _with_lines(mistakes(error, Manifest), document, path)
        except UnsupportedError as error:
            unsupported = Mistake(("spec", *error.location), "", str(error))
            wrong += _with_lines([unsupported], document, path)
        else:
            found.append((manifest, plain(_as_written(document))))
            wrong += _with_lines(_misread((), document), document, path)
    if wrong:
        raise ManifestError("\n".join(wrong))
    return found


def _items(document: object) -> Iterator[object]:
    """A document, or those in a List, as kubectl prints several."""
    if isinstance(document, dict) and str(document.get("kind", "")).endswith("List"):
        yield from document.get("items") or ()
    elif document is not None:
        yield document


def _as_written(document: object) -> object:
    """What a person writes of an object that the API server has printed."""
    if not isinstance(document, dict):
        return document
    written = {name: value for name, value in document.items() if name != "status"}
    if isinstance(metadata := written.get("metadata"), dict):
        written["metadata"] = {n: v for n, v in metadata.items() if n not in SERVERS_METADATA}
    return written


def _misread(location: Location, value: object) -> Iterator[Mistake]:
    """Words without quotes that kubectl, whose YAML is 1.1, reads otherwise."""
    if isinstance(value, dict | list):
        for part, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _misread((*location, part), child)
    elif type(value) is str and value.lower() in BOOLEANS_OF_YAML_1_1:
        yield mistake_at(location, f'kubectl reads a boolean here: put it in quotes, "{value}"')


def read_yaml(path: Path) -> list[object]:
    """The documents in a YAML or JSON file, whatever they say.

    Raises:
        ManifestError: It cannot be read.
    """
    return list(_yaml(path, _text(path)))


def read_run_config(path: Path) -> RunConfig:
    """The one RunConfig in a YAML or JSON file.

    Raises:
        ManifestError: It cannot be read, or is not valid; one line of text.
    """
    text = _text(path)
    # JSON is YAML too, but the YAML reader takes a hundred times longer.
    documents = [_json(path, text)] if text.startswith("{") else list(_yaml(path, text))
    if len(documents) != 1:
        raise ManifestError(f"{path}: one document expected, found {len(documents)}")
    try:
        return RunConfig.parse(documents[0])
    except ValidationError as error:
        unknown = OLDER_THAN_THE_OPERATOR if _is_of_an_operator(documents[0]) else ""
        told = _with_lines(mistakes(error, RunConfig, unknown=unknown), documents[0], path)
        raise ManifestError("; ".join(told)) from error


def _is_of_an_operator(document: object) -> bool:
    """Whether a RunConfig was written by an operator, which misspells no field."""
    job = document.get("job") if isinstance(document, dict) else None
    return isinstance(job, dict) and bool(job.get("uid"))


def _text(path: Path) -> str:
    try:
        return (STDIN if str(path) == "-" else path).read_text(encoding="utf-8")
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not a text file (UTF-8 expected)") from error


def _json(path: Path, text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ManifestError(f"{path}:{error.lineno}: malformed JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{path}: malformed JSON: {error}") from error


def _yaml(path: Path, text: str) -> Iterator[object]:
    """The documents in a text.

    The round-trip loader reads YAML 1.2 (2e-4 is a number there, as to Kubernetes, and a string to
    other readers of YAML 1.1), makes plain values only, and remembers lines and quotes.
    """
    # A pod's config is JSON, and its start does not wait for this.
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError
    from ruamel.yaml.reader import ReaderError

    try:
        yaml = YAML(typ="rt")
        yaml.preserve_quotes = True
        yield from yaml.load_all(text)
    except MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ManifestError(f"{path}{line}: malformed YAML: {error.problem}") from error
    except ReaderError as error:
        line = f":{text.count(chr(10), 0, error.position) + 1}"
        raise ManifestError(
            f"{path}{line}: malformed YAML: unprintable character {chr(error.character)!r}"
        ) from error
    # What a tag such as !!int makes of its text, and what is nested too deeply.
    except (ValueError, KeyError, RecursionError) as error:
        raise ManifestError(f"{path}: malformed YAML: {error}") from error


def _with_lines(found: Iterable[Mistake], document: object, path: Path) -> Iterator[str]:
    for mistake in found:
        line = _line(document, mistake)
        yield f"{path}:{line}: {mistake}" if line else f"{path}: {mistake}"


def _line(document: object, mistake: Mistake) -> int | None:
    """The line of the field, or of the innermost section around it that is there.

    None for a document that was not read from YAML.
    """
    line = document.lc.line + 1 if hasattr(document, "lc") else None
    node = document
    for part in mistake.location:
        try:
            position = node.lc.key(part) if isinstance(part, str) else node.lc.item(part)  # type: ignore[attr-defined]
            line = position[0] + 1
            node = node[part]  # type: ignore[index]
        except (AttributeError, KeyError, IndexError, TypeError):
            break
    return line
