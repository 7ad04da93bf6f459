"""The reward of reasoning-gym's procedural tasks: each task's own judgement of an answer."""

import json
import re
from typing import Any

from aligntune.core.errors import ConfigError
from aligntune.rewards.answers import answers
from aligntune.rewards.scoring import Batch
from aligntune.training.machine import require


def reasoning_gym(batch: Batch, *, tag: str = "answer") -> list[float | None]:
    """What the row's task of reasoning-gym gives for the answer, 0 to 1.

    A row is one of reasoning-gym's entries: `question`, `answer` and `metadata`, a mapping or its
    JSON, in which `source_dataset` names the task. Does not apply to rows without one.

    Args:
        batch: What is scored.
        tag: The answer is what the last `<tag>...</tag>` holds; the whole completion where there is
            none.

    Raises:
        ConfigError: The package is missing, or has no such task.
    """
    require("reasoning_gym", "rewards: reasoning_gym")
    given = batch.columns.get("metadata", [None] * len(batch.completions))
    questions = batch.columns.get("question", [None] * len(batch.completions))
    rows = zip(batch.completions, questions, answers(batch), given, strict=True)
    return [
        None
        if metadata is None
        else _judged(
            _tagged(completion, tag),
            {"question": question, "answer": answer, "metadata": _mapping(metadata)},
        )
        for completion, question, answer, metadata in rows
    ]


def _judged(answer: str, entry: dict[str, Any]) -> float:
    from reasoning_gym import get_score_answer_fn

    task = entry["metadata"].get("source_dataset")
    try:
        judge = get_score_answer_fn(task)
    except ValueError as error:
        raise ConfigError(f"metadata.source_dataset: reasoning-gym has no task {task!r}") from error
    return float(judge(answer, entry))


def _tagged(completion: str, tag: str) -> str:
    found = re.findall(rf"<{re.escape(tag)}>(.*?)</{re.escape(tag)}>", completion, re.DOTALL)
    return str(found[-1] if found else completion).strip()


def _mapping(metadata: object) -> dict[str, Any]:
    document = json.loads(metadata) if isinstance(metadata, str) else metadata
    if not isinstance(document, dict):
        raise ConfigError(f"metadata: a mapping is needed, got {metadata!r:.60}")
    return document
