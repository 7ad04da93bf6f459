"""From a conversation to token ids, and which of the tokens count in the loss."""

from collections.abc import Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from jinja2 import TemplateError, TemplateSyntaxError

from aligntune.core.conversation import Message
from aligntune.core.errors import ConfigError, DataError
from aligntune.core.sft.config import LossOn
from aligntune.data.shapes import Example

PLAIN_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if not loop.first %}{{ '\n\n' }}{% endif %}"
    "{{ message['role'].capitalize() + ': ' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n\nAssistant:' }}{% endif %}"
)
"""The form of models that have no chat template: `User: ...`, `Assistant: ...`, a blank line
between turns, the end-of-text token after each answer. It is saved with the model, so that
`predict` and every other user of the model see the same form. `plain_chat_template` puts the token
of the beginning before it, where there is one."""

IGNORED = -100
"""The label of a token that does not count in the loss, as torch's cross-entropy has it."""

ASKING = {"system", "developer", "user", "tool"}
"""Roles of whom nothing is learned."""


class Span(NamedTuple):
    """Part of a text, in characters."""

    start: int
    end: int


class Rendered(NamedTuple):
    """An example as the model will read it."""

    text: str
    learned: list[Span]
    """The parts that count in the loss, in order."""
    special_tokens: bool
    """Whether the tokenizer adds its special tokens; a chat template has its own."""


class Tokens(NamedTuple):
    """An example as token ids; both lists have the same length, at most the longest allowed."""

    input_ids: list[int]
    labels: list[int]
    """The ids that count in the loss, `IGNORED` elsewhere."""
    truncated: bool
    """The example was longer."""


def render(tokenizer: Any, messages: Sequence[Message], *, asks: bool = False) -> str:
    """The text of a conversation; `asks`: with the words that invite an answer.

    Raises:
        DataError: The chat template refuses it.
        ConfigError: The chat template is invalid.
    """
    try:
        return str(
            tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=asks
            )
        )
    except TemplateSyntaxError as error:
        raise ConfigError(
            f"model.chatTemplate: line {error.lineno} is no Jinja ({error}); correct it, or set one"
            " if this is the model's own"
        ) from error
    except TemplateError as error:
        raise DataError(f"the chat template refuses the conversation: {error}") from error


def end_of_turn(tokenizer: Any) -> int | None:
    """The special token that ends the assistant's turn in the chat template; None: it has none."""
    turns: list[Message] = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "!"},
    ]
    try:
        text = render(tokenizer, turns).rstrip()
    except (ConfigError, DataError):  # told with the first row that is rendered, if any is
        return None
    for token in tokenizer(text, add_special_tokens=False)["input_ids"][-1:]:
        added = tokenizer.added_tokens_decoder.get(token)
        return token if added is not None and added.special else None
    return None


def common_prefix(one: Sequence[object], other: Sequence[object]) -> int:
    """How many leading items two sequences share."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def form(tokenizer: Any) -> tuple[object, ...]:
    """All of a tokenizer that rendered and tokenised conversations depend on."""
    return (
        tokenizer.backend_tokenizer.to_str(),
        tokenizer.chat_template,
        tokenizer.special_tokens_map,
    )


def plain_chat_template(tokenizer: Any) -> str:
    """The plain form, begun as the tokenizer begins each text.

    What renders a chat adds no tokens of its own, and base models such as Llama and Gemma have read
    no text without that one. llama.cpp puts it there, whatever the template says.
    """
    begun = tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
    return ("{{ bos_token }}" if begun else "") + PLAIN_CHAT_TEMPLATE


class Renderer:
    """Renders and tokenises examples in the form of one model."""

    def __init__(self, tokenizer: Any, *, max_length: int, loss_on: LossOn) -> None:
        """Use `tokenizer`, a transformers tokenizer with a chat template and an EOS token."""
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._loss_on = loss_on

    def render(self, example: Example) -> Rendered:
        """The text of an example, and what of it is learned.

        Raises:
            DataError: `loss_on` asks for something that the example does not have.
        """
        if example.text:
            return self._render_text(example.text)
        messages = example.messages
        text = self._chat(messages)
        match self._loss_on, example.completion_start:
            case "all", _:
                learned = [Span(0, len(text))]
            case "assistant", _:
                learned = self._answers(messages, text)
            case "completion", None:
                learned = self._answers(messages, text)[-1:]
            case _, int(start):
                learned = [Span(self._prompt_length(messages[:start], text), len(text))]
            case _ if _answered(messages):
                learned = self._answers(messages, text, strict=False) or [Span(0, len(text))]
            case _:
                learned = []
        return Rendered(text, learned, special_tokens=False)

    def tokenize(self, rendered: Sequence[Rendered]) -> list[Tokens]:
        """Token ids and labels of several examples that were rendered alike."""
        if not rendered:
            return []
        encoded = self._tokenizer(
            [item.text for item in rendered],
            add_special_tokens=rendered[0].special_tokens,
            return_offsets_mapping=True,
            return_attention_mask=False,
        )
        return [
            self._labelled(ids, offsets, item.learned)
            for ids, offsets, item in zip(
                encoded["input_ids"], encoded["offset_mapping"], rendered, strict=True
            )
        ]

    def _labelled(
        self, ids: list[int], offsets: list[tuple[int, int]], learned: list[Span]
    ) -> Tokens:
        labels = [
            token if any(start < span.end and end > span.start for span in learned) else IGNORED
            for token, (start, end) in zip(ids, offsets, strict=True)
        ]
        cut = self._max_length
        return Tokens(ids[:cut], labels[:cut], truncated=len(ids) > cut)

    def _render_text(self, text: str) -> Rendered:
        if self._loss_on in ("completion", "assistant"):
            raise DataError(
                f"train.lossOn: rows of plain text have no {self._loss_on}; use all or auto"
            )
        eos = self._tokenizer.eos_token
        text = text if text.endswith(eos) else text + eos
        return Rendered(text, [Span(0, len(text))], special_tokens=True)

    def _chat(self, messages: Sequence[Message], *, asks: bool = False) -> str:
        return render(self._tokenizer, messages, asks=asks)

    def _prompt_length(self, prompt: Sequence[Message], text: str) -> int:
        """How much of `text` is the prompt, in characters."""
        return common_prefix(self._chat(prompt, asks=True), text)

    def _answers(
        self, messages: Sequence[Message], text: str, *, strict: bool = True
    ) -> list[Span]:
        """The assistant's turns in `text`, from the end of each prompt to the end of its turn.

        Templates that render a turn differently once others follow cannot be marked: none then,
        or an error where `strict`.
        """
        spans = []
        for turn, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._chat(messages[:turn], asks=True) if turn else ""
            after = self._chat(messages[: turn + 1])
            if not (text.startswith(after) and after.startswith(before)):
                if strict:
                    raise DataError(
                        "train.lossOn: the chat template renders a turn differently once others"
                        " follow, so that the assistant's cannot be told; use all"
                    )
                return []
            spans.append(Span(len(before), len(after)))
        if strict and not spans:
            raise DataError("train.lossOn: a conversation has no assistant's turn to learn")
        return spans


def _answered(messages: Sequence[Message]) -> bool:
    """Whether the assistant speaks.

    Raises:
        DataError: It does not, and another may have answered in its place.
    """
    roles = {message["role"] for message in messages}
    if "assistant" not in roles and not roles <= ASKING:
        raise DataError(
            f"no turn is the assistant's: the roles are {', '.join(sorted(roles))}; rename the one"
            " that answers to assistant, or set train.lossOn to all"
        )
    return "assistant" in roles
