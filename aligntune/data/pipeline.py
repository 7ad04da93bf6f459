"""From a config's sources to what a trainer is fed: read, recognised, split, encoded, mixed."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import datasets
import numpy as np
from datasets import Dataset, IterableDataset, concatenate_datasets, interleave_datasets
from datasets.fingerprint import Hasher
from filelock import FileLock

from aligntune.core.config.data import ColumnsConfig, DatasetConfig
from aligntune.core.config.training import EvaluationDataset
from aligntune.core.errors import DataError
from aligntune.core.rl.config import UnifiedConfig
from aligntune.core.sft.config import SFTConfig
from aligntune.data.mixing import draw
from aligntune.data.shapes import Ranks, Recognised, recognise
from aligntune.data.sources import Rows, read
from aligntune.data.split import stratified

SHUFFLE_BUFFER = 1000
"""Rows of a stream that are shuffled among each other."""

VERSION = metadata.version("aligntune-operator")
"""Which encoders made what is found in the cache."""

BOOKKEEPING = ["length", "truncated"]
"""Columns of encoded rows that the trainer is not fed."""

Example_contra = TypeVar("Example_contra", contravariant=True)

_log = logging.getLogger(__name__)


class Encoded(NamedTuple):
    """What the trainer is fed of one example."""

    cells: dict[str, Any]
    """Value by column, for each of the encoder's columns."""
    length: int
    """Tokens."""
    truncated: bool = False
    """The example was longer than the model takes, and has lost its end."""


class Encoder(Protocol[Example_contra]):
    """What rows become for one method. `Example_contra` is the form of its examples."""

    @property
    def ranks(self) -> Ranks[Any]:
        """The shapes that rows may have."""

    @property
    def columns(self) -> Sequence[str]:
        """The columns that the trainer is fed."""

    @property
    def limit(self) -> str:
        """The field of the config that says how long an example may be."""

    @property
    def key(self) -> Sequence[object]:
        """What the result depends on, besides the rows; decides what is found in the cache."""

    def encode(self, examples: Sequence[Example_contra]) -> Sequence[Encoded | None]:
        """Encode several examples; None for one that there is nothing to learn from.

        Raises:
            DataError: The config asks for something that an example does not have.
        """

    def show(self, example: Example_contra) -> str:
        """An example as the model reads it; what it learns from stands between «guillemets»."""


class SourceCounts(NamedTuple):
    """What became of the rows of one source."""

    name: str
    shape: str
    kept: int
    truncated: int
    """Kept, but cut at the maximum length."""
    dropped: int
    """Left out: empty, or all that was to be learned lay beyond the maximum length."""
    share_of_rows: float
    """Realised share of the mixture's rows."""
    share_of_tokens: float
    """Realised share of the mixture's tokens."""


class TrainingData(NamedTuple):
    """What a trainer is fed: rows with the columns of its encoder's cells."""

    train: Rows
    evaluation: Dataset | None
    """Held-out rows; None where the config holds none out."""
    sources: list[SourceCounts]
    """One entry per training source; empty for streams, whose rows are not known beforehand."""
    commits: dict[str, str]
    """Which commit of each source on the hub was read, by its name."""
    fingerprint: str
    """Changes with the training sources' rows, as far as commits and the times of files tell."""


class Source(NamedTuple):
    """A source whose rows can be read; nothing of them is encoded yet."""

    rows: Rows
    recognised: Recognised[Any]
    place: str
    """Its field path, for messages."""
    name: str
    commit: str | None
    """Which version of it was read; None where it is not on the hub."""
    numbers: np.ndarray[Any, Any] | None = None
    """Which row of the split each row is; None: they stand in its order."""

    @property
    def fingerprint(self) -> str | None:
        """Changes with the rows; None for a stream that is not on the hub."""
        return self.rows._fingerprint if isinstance(self.rows, Dataset) else self.commit  # noqa: SLF001

    def only(self, chosen: np.ndarray[Any, Any] | Sequence[int]) -> "Source":
        """The rows at these places, which keep their numbers."""
        numbers = np.asarray(chosen) if self.numbers is None else self.numbers[chosen]
        return self._replace(rows=cast("Dataset", self.rows).select(chosen), numbers=numbers)

    @contextmanager
    def blaming(self, index: int | None) -> Iterator[None]:
        """Errors in the data are told with the source's name and the row's number, if known."""
        try:
            yield
        except DataError as error:
            number = index if index is None or self.numbers is None else self.numbers[index]
            row = "a row" if number is None else f"row {number}"
            raise DataError(f"{self.place} {self.name!r}, {row}: {error}") from error

    def nothing_learned(self, rows: str, limit: str) -> DataError:
        """The error that none of the rows teaches anything."""
        return DataError(
            f"{self.place} {self.name!r}: {rows} rows have nothing to learn, or it lies beyond"
            f" {limit}; raise it or check the columns"
        )


def open_sources(
    config: SFTConfig | UnifiedConfig, ranks: Ranks[Any]
) -> tuple[list[Source], list[Source]]:
    """The sources to train on and those to evaluate on, each with its shape.

    Raises:
        DataError: A source is missing or unreadable, or fits no shape.
    """
    seed = config.train.seed
    training = [
        _open(source, f"datasets[{index}]", seed, source.columns, ranks)
        for index, source in enumerate(config.datasets)
    ]
    evaluation = [
        _open(source, f"evaluation.datasets[{index}]", seed, config.datasets[0].columns, ranks)
        for index, source in enumerate(config.evaluation.datasets)
    ]
    return training, evaluation


def load(config: SFTConfig | UnifiedConfig, encoder: Encoder[Any]) -> TrainingData:
    """Everything between the config's `datasets` and the trainer.

    Args:
        config: Names the sources and how they are split and mixed.
        encoder: Makes of rows what the trainer is fed.

    Raises:
        DataError: A source is missing or unreadable, fits no shape, or has nothing to learn.
    """
    sources, others = open_sources(config, encoder.ranks)
    train: Rows
    held_out: list[Dataset] = []
    counts: list[SourceCounts] = []
    if any(isinstance(source.rows, IterableDataset) for source in sources):
        train = _stream(config, sources, encoder)
    else:
        train, held_out, counts = _epoch(config, sources, encoder)
    held_out += [_encode(source, encoder)[0] for source in others]
    _log.info(
        "a row as the model reads it, with what it learns in «»:\n%s",
        encoder.show(_first_kept(sources[0], encoder)),
    )
    for count in counts:
        _log.info(
            "data %s: %s; %d rows kept, %d of them truncated, %d dropped;"
            " %.1f%% of the rows, %.1f%% of the tokens",
            *count[:5],
            100 * count.share_of_rows,
            100 * count.share_of_tokens,
        )
    commits = {one.name: one.commit for one in (*sources, *others) if one.commit}
    return TrainingData(
        train,
        concatenate_datasets(held_out) if held_out else None,
        counts,
        commits,
        Hasher.hash([source.fingerprint for source in sources]),
    )


def load_one(name: str, config: SFTConfig | UnifiedConfig, encoder: Encoder[Any]) -> Dataset:
    """One set to evaluate on: a file, or the split `test` of a folder or hub name.

    Raises:
        DataError: As for `load`.
    """
    named = EvaluationDataset(name=name)
    source = _open(named, "dataset", config.train.seed, config.datasets[0].columns, encoder.ranks)
    return _encode(source, encoder)[0]


def first_rows(rows: Rows, most: int) -> Rows:
    """The first rows, at most `most`."""
    return rows.take(min(most, len(rows)) if isinstance(rows, Dataset) else most)


def _open(
    source: DatasetConfig | EvaluationDataset,
    place: str,
    seed: int,
    columns: ColumnsConfig | None,
    ranks: Ranks[Any],
) -> Source:
    rows, commit = read(source, place)
    found = rows.column_names or []
    recognised = recognise(found, columns, ranks, f"{place} {source.name!r}")
    _log.info("data %s is read as %s", source.name, recognised)
    opened = Source(rows, recognised, place, source.name, commit)
    if source.max_samples is not None and isinstance(rows, Dataset):
        order = np.random.default_rng(seed).permutation(len(rows))
        opened = opened.only(order[: source.max_samples])
    return opened


def _epoch(
    config: SFTConfig | UnifiedConfig, sources: list[Source], encoder: Encoder[Any]
) -> tuple[Dataset, list[Dataset], list[SourceCounts]]:
    """The mixture of one epoch, what is held out, and the counts of each source."""
    encoded, held_out, tallies = [], [], []
    for source in sources:
        kept = source
        if config.evaluation.split_ratio is not None:
            kept, apart = _split(source, config.evaluation.split_ratio, config.train.seed)
            held_out.append(_encode(apart, encoder)[0])
        learned, truncated, dropped = _encode(kept, encoder)
        encoded.append(learned)
        tallies.append((truncated, dropped))
    lengths = [len(rows) for rows in encoded]
    if len(encoded) == 1:
        train, drawn = encoded[0], lengths
        tokens = [1]
    else:
        chosen = draw(lengths, [d.weight for d in config.datasets], config.train.seed)
        whole = concatenate_datasets(encoded)
        train = whole.select(chosen)
        drawn, tokens = _shares(chosen, lengths, whole)
    counts = [
        SourceCounts(
            source.name,
            source.recognised.shape.name,
            length,
            truncated,
            dropped,
            rows_drawn / sum(drawn),
            tokens_drawn / sum(tokens),
        )
        for source, length, (truncated, dropped), rows_drawn, tokens_drawn in zip(
            sources, lengths, tallies, drawn, tokens, strict=True
        )
    ]
    return train.remove_columns(BOOKKEEPING), held_out, counts


def _split(source: Source, ratio: float, seed: int) -> tuple[Source, Source]:
    """The rows to learn from, and those held out."""
    rows = cast("Dataset", source.rows)
    if len(rows) < 2:  # noqa: PLR2004 - one row for each side
        raise DataError(f"{source.place} {source.name!r}: one row cannot be split; add rows")
    if (label := source.recognised.columns.get("label")) is not None:
        held_out = stratified(rows[label][:], ratio, seed)
        if not held_out:
            raise DataError(
                f"{source.place} {source.name!r}: each row is the only one of its class, so none"
                " can be held out; add rows or name evaluation.datasets"
            )
        kept = sorted(set(range(len(rows))) - set(held_out))
        return source.only(kept), source.only(held_out)
    share = min(max(round(len(rows) * ratio), 1), len(rows) - 1)
    order = np.random.default_rng(seed).permutation(len(rows))
    return source.only(order[share:]), source.only(order[:share])


def _shares(chosen: list[int], lengths: list[int], whole: Dataset) -> tuple[list[int], list[int]]:
    """Rows and tokens drawn from each source."""
    sizes = whole["length"][:]
    rows, tokens = [0] * len(lengths), [0] * len(lengths)
    owner = [source for source, length in enumerate(lengths) for _ in range(length)]
    for index in chosen:
        rows[owner[index]] += 1
        tokens[owner[index]] += sizes[index]
    return rows, tokens


def _first_kept(source: Source, encoder: Encoder[Any]) -> Any:
    """The first example that there is something to learn from."""
    for index, row in enumerate(source.rows):
        with source.blaming(index):
            example = source.recognised.example(row)
            if encoder.encode([example])[0] is not None:
                return example
    raise source.nothing_learned("all", encoder.limit)


def _encode(source: Source, encoder: Encoder[Any]) -> tuple[Dataset, int, int]:
    """The encoded rows of a source; how many were truncated, how many dropped.

    One process of a machine encodes, and the others find its rows in the cache. They wait for a
    file: in a collective, they would give up after half an hour.
    """
    rows = cast("Dataset", source.rows)
    key = Hasher.hash([VERSION, source.fingerprint, str(source.recognised), *encoder.key])
    with FileLock(Path(datasets.config.HF_DATASETS_CACHE) / f"{key}.lock"):
        encoded = rows.map(
            _batches(source, encoder),
            batched=True,
            with_indices=True,
            remove_columns=rows.column_names,
            new_fingerprint=key,
            desc=f"Tokenizing {source.name}",
        )
    dropped = len(rows) - len(encoded)
    if not len(encoded):
        raise source.nothing_learned(f"all {dropped}", encoder.limit)
    return encoded, sum(encoded["truncated"]), dropped


def _stream(
    config: SFTConfig | UnifiedConfig, sources: list[Source], encoder: Encoder[Any]
) -> IterableDataset:
    streams = []
    for source in sources:
        rows = source.rows
        if isinstance(rows, Dataset):
            rows = rows.to_iterable_dataset()
        streams.append(
            rows.shuffle(seed=config.train.seed, buffer_size=SHUFFLE_BUFFER)
            .map(
                _batches(source, encoder),  # without numbers: a shuffled stream has none
                batched=True,
                remove_columns=rows.column_names,
            )
            .remove_columns(BOOKKEEPING)
        )
    _log.info("data is streamed: rows that are empty or too long are dropped without a count")
    if len(streams) == 1:
        return streams[0]
    weights = [source.weight for source in config.datasets]
    return interleave_datasets(
        streams,
        probabilities=[weight / sum(weights) for weight in weights],
        seed=config.train.seed,
        stopping_strategy="all_exhausted",
    )


def _batches(source: Source, encoder: Encoder[Any]) -> Callable[..., dict[str, list[Any]]]:
    """The function that `map` applies to a batch; rows with nothing to learn do not come out."""

    def one(example: Any, index: int | None) -> Encoded | None:
        with source.blaming(index):
            return encoder.encode([example])[0]

    def encode(
        batch: dict[str, list[Any]], numbered: list[int] | None = None
    ) -> dict[str, list[Any]]:
        examples = []
        indices: Sequence[int | None] = numbered or [None] * len(next(iter(batch.values())))
        for position, index in enumerate(indices):
            with source.blaming(index):
                row = {name: cells[position] for name, cells in batch.items()}
                examples.append(source.recognised.example(row))
        try:
            encoded = encoder.encode(examples)
        except DataError:
            encoded = [
                one(example, index) for example, index in zip(examples, indices, strict=True)
            ]
        kept = [item for item in encoded if item is not None]
        return {
            **{name: [item.cells[name] for item in kept] for name in encoder.columns},
            "length": [item.length for item in kept],
            "truncated": [item.truncated for item in kept],
        }

    return encode
