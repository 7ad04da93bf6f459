"""Reading one source of data: a file, a folder of files, or a name on the hub."""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import datasets
from datasets import ClassLabel, Dataset, DatasetBuilder, Features, IterableDataset, Json, Value
from datasets.packaged_modules.csv.csv import Csv
from datasets.packaged_modules.json.json import Json as JsonFiles

from aligntune.core.config.data import DatasetConfig
from aligntune.core.config.training import EvaluationDataset
from aligntune.core.errors import DataError, DatasetNotFoundError, RunError
from aligntune.hub import HubRepo, is_path, probe_hub

FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}
"""File names' endings and the reader of each."""

_log = logging.getLogger(__name__)

Rows: TypeAlias = "Dataset | IterableDataset"


class Read(NamedTuple):
    """What a source holds."""

    rows: Rows
    commit: str | None
    """Which version of it was read; None where it is not on the hub."""


def read(source: DatasetConfig | EvaluationDataset, place: str) -> Read:
    """All rows of a source; `place` is its field path, for messages.

    Rows are as they are, except that a class that is kept as a number gets its name.

    Raises:
        DatasetNotFoundError: It does not exist.
        DataError: It cannot be parsed, has no such split, or is empty.
        UnauthorizedError: The hub refuses the token.
        HubUnreachableError: The hub cannot be reached, and the source is not in the cache.
    """
    where = f"{place}.name {source.name!r}"
    revision = source.revision if isinstance(source, DatasetConfig) else None
    repo = HubRepo("dataset", place, source.name, revision)
    streaming = isinstance(source, DatasetConfig) and source.streaming
    arguments = location(source, where)
    on_hub = "token" in arguments
    from_cache = on_hub and probe_hub() is not None
    try:
        with _offline() if from_cache else nullcontext():
            builder = datasets.load_dataset_builder(**arguments)
            if from_cache:
                _check_revision(repo, builder.hash)
            read_rows = _rows if on_hub else partial(_written_rows, arguments)
            rows = read_rows(builder, source.split, streaming=streaming)
        if on_hub:
            _log.info("data %s is at commit %s", source.name, builder.hash)
    except RunError:
        raise
    except datasets.exceptions.DatasetNotFoundError as error:
        # datasets drops the hub's own answer on the way here, except for revisions
        missing = repo.gated() if "gated" in str(error) else repo.unknown()
        raise (repo.explained(error) or missing) from error
    except datasets.exceptions.DatasetGenerationError as error:
        raise DataError(f"{where}: {_unparsable(source.name, error)}") from error
    except ValueError as error:
        raise DataError(f"{where}: {_first_line(error)}") from error
    except OSError as error:
        explained = repo.explained(error)
        if explained is None:
            raise
        raise explained from error
    if isinstance(rows, Dataset) and not len(rows):
        raise DataError(f"{where}: split {source.split!r} has no rows")
    return Read(_with_class_names(rows), builder.hash if on_hub else None)


def _with_class_names(rows: Rows) -> Rows:
    """The rows with the names of classes in place of their numbers; None where there is none."""
    classes = {
        column: dict(enumerate(feature.names))
        for column, feature in (rows.features or {}).items()
        if isinstance(feature, ClassLabel)
    }
    if classes and isinstance(rows, IterableDataset):
        named = Features(rows.features | dict.fromkeys(classes, Value("string")))
        return rows.map(
            lambda row: {column: names.get(row[column]) for column, names in classes.items()},
            features=named,
        )
    for column, names in classes.items():
        cells = [names.get(number) for number in rows[column]]
        rows = rows.remove_columns(column).add_column(column, cells)
    return rows


def location(source: DatasetConfig | EvaluationDataset, where: str) -> dict[str, Any]:
    """What `load_dataset` needs to find the source.

    Raises:
        DatasetNotFoundError: It is a file or folder that is not there.
        DataError: It is of no known format, or empty.
    """
    path = Path(source.name).expanduser()
    if path.is_file():
        if path.suffix not in FORMATS:
            raise DataError(f"{where}: files that can be read end in {', '.join(FORMATS)}")
        if not path.stat().st_size:
            raise DataError(f"{where}: the file is empty")
        if source.config is not None:
            raise DataError(
                f"{where}: a file has no config {source.config!r}; remove config, or name a folder"
                " whose README.md has it"
            )
        # A single file is whatever split is asked for; `train[:10%]` still takes a part of it.
        split = source.split.split("[")[0]
        return {"path": FORMATS[path.suffix], "data_files": {split: str(path)}}
    if path.is_dir():
        if not any(file.suffix in FORMATS for file in path.rglob("*")):
            raise DataError(f"{where}: the folder holds no file ending in {', '.join(FORMATS)}")
        return {"path": str(path), "name": source.config}
    if path.suffix in FORMATS or is_path(source.name):
        raise DatasetNotFoundError(
            f"{where}: there is no such file or folder; check the path and its mount"
        )
    hub = {"path": source.name, "name": source.config, "token": os.environ.get("HF_TOKEN")}
    return hub | {"revision": source.revision} if isinstance(source, DatasetConfig) else hub


@contextmanager
def _offline() -> Iterator[None]:
    """Within, `datasets` takes what it has in its cache, and asks nobody."""
    online, datasets.config.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = online


def _rows(builder: DatasetBuilder, split: str, *, streaming: bool) -> Rows:
    """What `load_dataset` returns."""
    if not streaming:
        builder.download_and_prepare()
        return builder.as_dataset(split=split)
    rows = builder.as_streaming_dataset(split=split)
    if rows.column_names is None:
        rows = rows._resolve_features()  # noqa: SLF001 - a stream says its columns only so
    return rows


def _written_rows(
    arguments: dict[str, Any], builder: DatasetBuilder, split: str, *, streaming: bool
) -> Rows:
    """The rows of files, with the words that stand there."""
    if isinstance(builder, Csv):  # pandas takes None, NA and null for empty cells
        words = {"keep_default_na": False, "na_values": [""]}
        features = None if builder.info.features else _texts(builder)
        builder = datasets.load_dataset_builder(**arguments, **words, features=features)
    rows = _rows(builder, split, streaming=streaming)
    if isinstance(builder, JsonFiles) and (columns := _dated(rows)):
        features = Features(rows.features | dict.fromkeys(columns, Json()))
        builder = datasets.load_dataset_builder(**arguments, features=features)
        rows = _rows(builder, split, streaming=streaming)
    return rows


def _texts(builder: DatasetBuilder) -> Features | None:
    """All columns as text: pandas would make `True` of true, and 501 of 00501.

    None where the files hold no rows.
    """
    for row in next(iter(builder.as_streaming_dataset().values())):
        return Features(dict.fromkeys(row, Value("string")))
    return None


def _dated(rows: Rows) -> list[str]:
    """The columns in which pyarrow has found dates, of which JSON has none."""
    return [field.name for field in rows.features.arrow_schema if "timestamp[" in str(field.type)]


def _check_revision(repo: HubRepo, commit: str) -> None:
    """Refuse another revision than the one asked for: from its cache, `datasets` takes the newest.

    Raises:
        DatasetNotFoundError, HubUnreachableError: The cache has a commit of its own choice.
    """
    expected = repo.cached_commit()
    if commit != expected and (expected or repo.revision):
        raise repo.not_cached()


def _unparsable(name: str, error: Exception) -> str:
    """Where a file breaks off from its format, as far as that can be said."""
    path = Path(name)
    if path.suffix == ".jsonl" and path.is_file():
        with path.open(encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    json.loads(line or "null")
                except ValueError as broken:
                    return f"line {number} is no JSON ({broken})"
    return f"it cannot be read: {_first_line(error.__cause__ or error)}"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
