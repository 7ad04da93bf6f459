"""Which columns mean what: an ordered table, for each task, of the shapes that rows come in.

A table is read from the top; the first rank with a shape whose columns are all there decides.
Two shapes of one rank are a tie, and a tie is an error: only the data's owner knows.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from aligntune.core.config.data import ColumnsConfig
from aligntune.core.conversation import Message
from aligntune.core.errors import DataError

Row = Mapping[str, Any]
Form = TypeVar("Form")
"""The one form that all shapes of a task are brought to."""

ROW = "row"
"""Where a shape's `convert` finds the row as it stands in the data, beside the roles."""

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "model": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
}
"""Names of those who speak, in small letters; others are kept as they are."""


class Example(NamedTuple):
    """One row in the one form that all shapes are brought to: a conversation or a text."""

    messages: list[Message]
    """The conversation; empty for plain text."""
    completion_start: int | None = None
    """Index of the first message to learn; None: the row does not say."""
    text: str = ""
    """Plain text to continue; empty for a conversation."""

    @property
    def empty(self) -> bool:
        """There is nothing to learn from this row."""
        learned = self.messages[self.completion_start or 0 :]
        return not self.text and not any(message["content"] for message in learned)


class Shape(NamedTuple, Generic[Form]):
    """A set of columns that together make an example."""

    name: str
    required: dict[str, str]
    """Role -> the column that plays it where nothing else is said."""
    optional: dict[str, str]
    convert: Callable[[Row], Form]
    """Makes an example of a row whose keys are roles."""
    keeps_row: bool = False
    """`convert` also finds the whole row, under the key `ROW`."""


Ranks: TypeAlias = tuple[tuple[Shape[Form], ...], ...]
"""The shapes of a task, the first rank first."""


class Recognised(NamedTuple, Generic[Form]):
    """The shape that a data set has, and its columns by role."""

    shape: Shape[Form]
    columns: dict[str, str]

    def example(self, row: Row) -> Form:
        """The example in `row`.

        Raises:
            DataError: A cell is of no use for its role.
        """
        cells = {role: row[name] for role, name in self.columns.items()}
        return self.shape.convert(cells | {ROW: row} if self.shape.keeps_row else cells)

    def __str__(self) -> str:
        roles = ", ".join(
            role if role == name else f"{role} = {name}" for role, name in self.columns.items()
        )
        return f"{self.shape.name} ({roles})"


def recognise(
    found: Iterable[str],
    columns: ColumnsConfig | None,
    ranks: Ranks[Form],
    place: str,
) -> Recognised[Form]:
    """Decide which shape a data set has.

    Args:
        found: The data set's columns.
        columns: Roles that the config sets; a shape must use every one of them.
        ranks: The table of the task, such as `SUPERVISED`.
        place: The field path and name of the data set, for messages.

    Raises:
        DataError: Nothing fits, or two shapes fit equally well.
    """
    available = list(found)
    chosen = columns.model_dump(by_alias=False, exclude_none=True) if columns else {}
    for role, name in chosen.items():
        if name not in available:
            raise DataError(
                f"{place}: columns.{role} names {name!r}, but the columns are {_listed(available)}"
            )
    for shapes in ranks:
        fits = [match for shape in shapes if (match := _match(shape, available, chosen))]
        if len(fits) > 1 and any(match.columns != fits[0].columns for match in fits):
            raise DataError(
                f"{place}: the columns {_listed(available)} fit both"
                f" {' and '.join(match.shape.name for match in fits)}; say which with columns"
            )
        if fits:
            return fits[0]
    accepted = "; ".join(
        f"{shape.name}: {' + '.join(shape.required.values())}" for rank in ranks for shape in rank
    )
    raise DataError(
        f"{place}: no shape fits the columns {_listed(available)}"
        f"{f' with columns set to {chosen}' if chosen else ''}."
        f" Accepted are {accepted}. Rename the columns, or name their roles with columns"
    )


def _match(
    shape: Shape[Form], available: list[str], chosen: Mapping[str, str]
) -> Recognised[Form] | None:
    known = shape.required | shape.optional
    if not set(chosen) <= set(known):
        return None
    columns = {**known, **chosen}
    if any(columns[role] not in available for role in shape.required):
        return None
    return Recognised(shape, {role: name for role, name in columns.items() if name in available})


def _prompt_completion(row: Row) -> Example:
    prompt = as_prompt(row)
    completion = as_turn(row["completion"], "assistant")
    return Example([*prompt, *completion], completion_start=len(prompt))


def _messages(row: Row) -> Example:
    return Example(as_conversation(row["messages"]))


def _plain_text(row: Row) -> Example:
    return Example([], text=as_text(row["text"]))


def as_prompt(row: Row) -> list[Message]:
    """What is asked in a row: its `prompt`, and below it the context in its `input`, if any."""
    messages = as_turn(row["prompt"], "user")
    if context := as_text(row.get("input")):
        messages[-1] = messages[-1] | {"content": f"{messages[-1]['content']}\n\n{context}"}
    return messages


def as_conversation(value: object) -> list[Message]:
    """The chat messages in a cell."""
    if not isinstance(value, list):
        raise DataError(f"a list of chat messages is needed, got {value!r:.60}")
    return [as_message(item) for item in value]


def as_turn(value: object, role: str) -> list[Message]:
    """A string is what `role` says; a list of messages stays."""
    if isinstance(value, list) and value:
        return [as_message(item) for item in value]
    return [{"role": role, "content": as_text(value)}]


def as_message(item: object) -> Message:
    """A chat message, in the words of OpenAI or of ShareGPT."""
    if isinstance(item, Mapping):
        role, content = item.get("role", item.get("from")), item.get("content", item.get("value"))
        if item.get("tool_calls") or item.get("function_call"):
            raise DataError(
                "calls of tools are not learned; write a message's tool_calls into its content, in"
                " the model's own form, or take such rows out"
            )
        if isinstance(role, str):
            return {"role": ROLES.get(role.lower(), role), "content": as_text(content)}
    raise DataError(f"a chat message has role and content (or from and value), got {item!r:.60}")


def as_text(value: object) -> str:
    """The text in a cell; files turn some answers into numbers, and 4 beside 0.5 into 4.0."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    raise DataError(f"a text is needed, got {value!r:.60}")


SUPERVISED: Ranks[Example] = (
    (
        Shape("messages", {"messages": "messages"}, {}, _messages),
        Shape("sharegpt", {"messages": "conversations"}, {}, _messages),
    ),
    (
        Shape(
            "prompt-completion",
            {"prompt": "prompt", "completion": "completion"},
            {"input": "input"},
            _prompt_completion,
        ),
        Shape(
            "alpaca",
            {"prompt": "instruction", "completion": "output"},
            {"input": "input"},
            _prompt_completion,
        ),
    ),
    (Shape("text", {"text": "text"}, {}, _plain_text),),
)
"""For next-token training, from the top. Data with several shapes is read by the first."""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
