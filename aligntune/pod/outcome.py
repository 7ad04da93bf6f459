"""Leaving the outcome where it is found after the pod is gone: on storage and with the kubelet."""

import bisect
import logging
from collections.abc import Mapping
from pathlib import Path

from aligntune.api.env import TERMINATION_MESSAGE_PATH
from aligntune.api.progress import Outcome
from aligntune.core.files import replace_file

TERMINATION_MESSAGE_BYTES = 4096
"""What the kubelet keeps of a termination message; it cuts the rest off, and JSON breaks."""

_log = logging.getLogger(__name__)


def termination_message(outcome: Outcome) -> bytes:
    """`outcome` as JSON of at most `TERMINATION_MESSAGE_BYTES`.

    What does not fit goes in this order: the beginning of the log tail, the end of the message,
    the metrics, the paths.
    """
    outcome = _shorten(outcome, "log_tail", keep_end=True)
    outcome = _shorten(outcome, "message", keep_end=False)
    for field, empty in (("metrics", {}), ("model_path", None), ("checkpoint", None)):
        if len(_json(outcome)) > TERMINATION_MESSAGE_BYTES:
            outcome = outcome.model_copy(update={field: empty})
    return _json(outcome)


def leave(outcome: Outcome, path: Path | None, env: Mapping[str, str]) -> None:
    """Leave `outcome` at `path` and as the termination message, as far as there are such places.

    The outcome stands whether or not it can be written down: a failure to do so is logged.
    """
    if path is not None:
        try:
            replace_file(path, outcome.model_dump_json(exclude_none=True, indent=2) + "\n")
        except OSError as error:
            _log.warning("%s: the outcome was not written: %s", path, error.strerror)
    if message_path := env.get(TERMINATION_MESSAGE_PATH):
        try:
            # The kubelet mounts this very file: it cannot be replaced by another.
            Path(message_path).write_bytes(termination_message(outcome))
        except OSError as error:
            _log.warning("%s: no termination message: %s", message_path, error.strerror)


def _shorten(outcome: Outcome, field: str, *, keep_end: bool) -> Outcome:
    """Keep as many characters of a text as fit; whole characters, so it stays valid UTF-8."""
    text: str = getattr(outcome, field)

    def keep(characters: int) -> Outcome:
        part = text[len(text) - characters :] if keep_end else text[:characters]
        return outcome.model_copy(update={field: part})

    fitting = bisect.bisect_right(
        range(1, len(text) + 1),
        TERMINATION_MESSAGE_BYTES,
        key=lambda characters: len(_json(keep(characters))),
    )
    return keep(fitting)


def _json(outcome: Outcome) -> bytes:
    return outcome.model_dump_json(exclude_none=True).encode()
