"""What is said to a model: messages, conversations, questions."""

from collections.abc import Sequence
from typing import TypeAlias

Message: TypeAlias = dict[str, str]
"""One chat message: `{"role": "user", "content": "..."}`."""
Question: TypeAlias = str | Sequence[Message]
"""A text for the user's turn, or a whole conversation so far."""


def is_one(asked: Question | Sequence[Question]) -> bool:
    """Whether this is one text or conversation, and not a list of them."""
    return isinstance(asked, str) or (bool(asked) and isinstance(asked[0], dict))
