"""The data of a supervised run: read, recognised, split, tokenised, mixed and counted."""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, cast

from datasets import Dataset, IterableDataset, concatenate_datasets, interleave_datasets
from datasets.fingerprint import Hasher

from aligntune.core.config.data import ColumnsConfig, DatasetConfig
from aligntune.core.config.training import EvaluationDataset
from aligntune.core.errors import DataError
from aligntune.core.sft.config import SFTConfig
from aligntune.data.mixing import draw
from aligntune.data.rendering import IGNORED, Renderer
from aligntune.data.shapes import SUPERVISED, Recognised, recognise
from aligntune.data.sources import Rows, read

SHUFFLE_BUFFER = 1000
"""Rows of a stream that are shuffled among each other."""

_log = logging.getLogger(__name__)


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


class SupervisedData(NamedTuple):
    """What a supervised trainer is fed: rows of `input_ids` and `labels`."""

    train: Rows
    evaluation: Dataset | None
    """Held-out rows; None where the config holds none out."""
    sources: list[SourceCounts]
    """One entry per training source; empty for streams, whose rows are not known beforehand."""


class _Source(NamedTuple):
    rows: Rows
    recognised: Recognised
    place: str
    name: str


def load(
    config: SFTConfig,
    renderer: Renderer,
    cache_key: Sequence[object],
    in_turn: Callable[[], AbstractContextManager[None]],
) -> SupervisedData:
    """Everything between the config's `datasets` and the trainer.

    Args:
        config: Names the sources and how they are split and mixed.
        renderer: Renders and tokenises in the model's form.
        cache_key: What the renderer's result depends on, besides the rows.
        in_turn: A context in which one process per machine goes first, so that the others find
            its tokenised rows in the cache.

    Raises:
        DataError: A source is missing or unreadable, fits no shape, or has nothing to learn.
    """
    seed = config.train.seed
    sources = [
        _open(source, f"datasets[{index}]", seed, source.columns)
        for index, source in enumerate(config.datasets)
    ]
    others = [
        _open(source, f"evaluation.datasets[{index}]", seed, config.datasets[0].columns)
        for index, source in enumerate(config.evaluation.datasets)
    ]
    with in_turn():
        train: Rows
        held_out: list[Dataset] = []
        counts: list[SourceCounts] = []
        if any(isinstance(source.rows, IterableDataset) for source in sources):
            train = _stream(config, sources, renderer)
        else:
            train, held_out, counts = _epoch(config, sources, renderer, cache_key)
        held_out += [_encode(source, renderer, cache_key)[0] for source in others]
    _log_sample(renderer, sources[0])
    for count in counts:
        _log.info(
            "data %s: %s; %d rows kept, %d of them truncated, %d dropped;"
            " %.1f%% of the rows, %.1f%% of the tokens",
            *count[:5],
            100 * count.share_of_rows,
            100 * count.share_of_tokens,
        )
    return SupervisedData(train, concatenate_datasets(held_out) if held_out else None, counts)


def load_one(
    name: str, config: SFTConfig, renderer: Renderer, cache_key: Sequence[object]
) -> Dataset:
    """One set to evaluate on: a file, or the split `test` of a folder or hub name.

    Raises:
        DataError: As for `load`.
    """
    named = EvaluationDataset(name=name)
    source = _open(named, "dataset", config.train.seed, config.datasets[0].columns)
    return _encode(source, renderer, cache_key)[0]


def some(rows: Rows, most: int) -> Rows:
    """The first rows, at most `most`."""
    return rows.take(min(most, len(rows)) if isinstance(rows, Dataset) else most)


def _open(
    source: DatasetConfig | EvaluationDataset, place: str, seed: int, columns: ColumnsConfig | None
) -> _Source:
    rows = read(source, place)
    recognised = recognise(rows.column_names or [], columns, SUPERVISED, f"{place} {source.name!r}")
    _log.info("data %s is read as %s", source.name, recognised)
    if source.max_samples is not None and isinstance(rows, Dataset):
        rows = rows.shuffle(seed=seed).select(range(min(source.max_samples, len(rows))))
    return _Source(rows, recognised, place, source.name)


def _epoch(
    config: SFTConfig, sources: list[_Source], renderer: Renderer, cache_key: Sequence[object]
) -> tuple[Dataset, list[Dataset], list[SourceCounts]]:
    """The mixture of one epoch, what is held out, and the counts of each source."""
    encoded, held_out, tallies = [], [], []
    for source in sources:
        rows = cast("Dataset", source.rows)
        if config.evaluation.split_ratio is not None:
            parts = _split(source, rows, config.evaluation.split_ratio, config.train.seed)
            rows = parts[0]
            held_out.append(_encode(source._replace(rows=parts[1]), renderer, cache_key)[0])
        learned, truncated, dropped = _encode(source._replace(rows=rows), renderer, cache_key)
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
    return train.select_columns(["input_ids", "labels"]), held_out, counts


def _split(source: _Source, rows: Dataset, ratio: float, seed: int) -> tuple[Dataset, Dataset]:
    if len(rows) < 2:  # noqa: PLR2004 - one row for each side
        raise DataError(f"{source.place} {source.name!r}: one row cannot be split; add rows")
    share = min(max(round(len(rows) * ratio), 1), len(rows) - 1)
    parts = rows.train_test_split(test_size=share, seed=seed)
    return parts["train"], parts["test"]


def _shares(chosen: list[int], lengths: list[int], whole: Dataset) -> tuple[list[int], list[int]]:
    """Rows and tokens drawn from each source."""
    sizes = whole["length"][:]
    rows, tokens = [0] * len(lengths), [0] * len(lengths)
    owner = [source for source, length in enumerate(lengths) for _ in range(length)]
    for index in chosen:
        rows[owner[index]] += 1
        tokens[owner[index]] += sizes[index]
    return rows, tokens


def _encode(
    source: _Source, renderer: Renderer, cache_key: Sequence[object]
) -> tuple[Dataset, int, int]:
    """Token ids and labels of a source; how many rows were truncated, how many dropped."""
    rows = cast("Dataset", source.rows)
    key = Hasher.hash([rows._fingerprint, str(source.recognised), *cache_key])  # noqa: SLF001
    encoded = rows.map(
        _encoder(source, renderer),
        batched=True,
        with_indices=True,
        remove_columns=rows.column_names,
        new_fingerprint=key,
        desc=f"Tokenizing {source.name}",
    )
    dropped = len(rows) - len(encoded)
    if not len(encoded):
        raise DataError(
            f"{source.place} {source.name!r}: all {dropped} rows are empty, or what is to be"
            " learned lies beyond model.maxLength; raise it or check the columns"
        )
    return encoded, sum(encoded["truncated"]), dropped


def _stream(config: SFTConfig, sources: list[_Source], renderer: Renderer) -> IterableDataset:
    streams = []
    for source in sources:
        rows = source.rows
        if isinstance(rows, Dataset):
            rows = rows.to_iterable_dataset()
        streams.append(
            rows.shuffle(seed=config.train.seed, buffer_size=SHUFFLE_BUFFER)
            .map(
                _encoder(source, renderer),
                batched=True,
                with_indices=True,
                remove_columns=rows.column_names,
            )
            .select_columns(["input_ids", "labels"])
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


def _encoder(
    source: _Source, renderer: Renderer
) -> Callable[[dict[str, list[Any]], list[int]], dict[str, list[Any]]]:
    """The function that `map` applies to a batch; rows with nothing to learn do not come out."""

    def encode(batch: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        rendered = []
        for position, index in enumerate(indices):
            row = {name: cells[position] for name, cells in batch.items()}
            try:
                example = source.recognised.example(row)
                if not example.empty:
                    rendered.append(renderer.render(example))
            except DataError as error:
                raise DataError(f"{source.place} {source.name!r}, row {index}: {error}") from error
        kept = [
            tokens
            for tokens in (renderer.tokenize(rendered) if rendered else [])
            if any(label != IGNORED for label in tokens.labels)
        ]
        return {
            "input_ids": [tokens.input_ids for tokens in kept],
            "labels": [tokens.labels for tokens in kept],
            "length": [len(tokens.input_ids) for tokens in kept],
            "truncated": [tokens.truncated for tokens in kept],
        }

    return encode


def _log_sample(renderer: Renderer, source: _Source) -> None:
    """Show one rendered row; what counts in the loss stands between «guillemets»."""
    row = next(iter(source.rows))
    rendered = renderer.render(source.recognised.example(row))
    shown, end = "", 0
    for span in rendered.learned:
        shown += f"{rendered.text[end : span.start]}«{rendered.text[span.start : span.end]}»"
        end = span.end
    _log.info(
        "a row as the model reads it, with what it learns in «»:\n%s", shown + rendered.text[end:]
    )
