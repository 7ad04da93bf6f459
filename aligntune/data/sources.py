"""Reading one source of data: a file, a folder of files, or a name on the hub."""

import json
import os
from pathlib import Path
from typing import Any, TypeAlias

import datasets
from datasets import ClassLabel, Dataset, Features, IterableDataset, Value

from aligntune.core.config.data import DatasetConfig
from aligntune.core.config.training import EvaluationDataset
from aligntune.core.errors import DataError, UnauthorizedError

FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}
"""File names' endings and the reader of each."""

Rows: TypeAlias = "Dataset | IterableDataset"


def read(source: DatasetConfig | EvaluationDataset, place: str) -> Rows:
    """All rows of a source; `place` is its field path, for messages.

    Rows are as they are, except that a class that is kept as a number gets its name.

    Raises:
        DataError: It does not exist, cannot be parsed, has no such split, or is empty.
        UnauthorizedError: The hub refuses the token.
    """
    where = f"{place}.name {source.name!r}"
    streaming = isinstance(source, DatasetConfig) and source.streaming
    try:
        rows: Rows = datasets.load_dataset(
            **location(source, where), split=source.split, streaming=streaming
        )
        if isinstance(rows, IterableDataset) and rows.column_names is None:
            rows = rows._resolve_features()  # noqa: SLF001 - a stream says its columns only so
    except datasets.exceptions.DatasetNotFoundError as error:
        if "gated" in str(error) or "401" in str(error):
            raise UnauthorizedError(
                f"{where}: the hub does not let this token read it; ask for access, or set HF_TOKEN"
            ) from error
        raise DataError(f"{where}: there is no such data set; check the name") from error
    except datasets.exceptions.DatasetGenerationError as error:
        raise DataError(f"{where}: {_unparsable(source.name, error)}") from error
    except ValueError as error:
        raise DataError(f"{where}: {_first_line(error)}") from error
    if isinstance(rows, Dataset) and not len(rows):
        raise DataError(f"{where}: split {source.split!r} has no rows")
    return _with_class_names(rows)


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
        DataError: It is a file or folder that is not there or of no known format.
    """
    path = Path(source.name).expanduser()
    if path.is_file():
        if path.suffix not in FORMATS:
            raise DataError(f"{where}: files that can be read end in {', '.join(FORMATS)}")
        if not path.stat().st_size:
            raise DataError(f"{where}: the file is empty")
        # A single file is whatever split is asked for; `train[:10%]` still takes a part of it.
        split = source.split.split("[")[0]
        return {"path": FORMATS[path.suffix], "data_files": {split: str(path)}}
    if path.is_dir():
        if not any(file.suffix in FORMATS for file in path.rglob("*")):
            raise DataError(f"{where}: the folder holds no file ending in {', '.join(FORMATS)}")
        return {"path": str(path)}
    if path.suffix in FORMATS or source.name.startswith(("/", ".", "~")):
        raise DataError(f"{where}: there is no such file or folder; check the path and its mount")
    hub = {"path": source.name, "name": source.config, "token": os.environ.get("HF_TOKEN")}
    return hub | {"revision": source.revision} if isinstance(source, DatasetConfig) else hub


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
