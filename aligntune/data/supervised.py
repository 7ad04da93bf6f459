"""What rows become for next-token training: token ids, and labels where they count in the loss."""

from collections.abc import Sequence
from typing import Any

from aligntune.core.sft.config import LossOn
from aligntune.data.pipeline import Encoded
from aligntune.data.rendering import IGNORED, Renderer, form
from aligntune.data.shapes import SUPERVISED, Example


class SupervisedEncoder:
    """Renders and tokenises examples in the form of one model."""

    ranks = SUPERVISED
    columns = ("input_ids", "labels")
    limit = "model.maxLength"

    def __init__(self, tokenizer: Any, *, max_length: int, loss_on: LossOn) -> None:
        """Use `tokenizer`, a transformers tokenizer with a chat template and an EOS token."""
        self._renderer = Renderer(tokenizer, max_length=max_length, loss_on=loss_on)
        self.key = (*form(tokenizer), max_length, loss_on)

    def encode(self, examples: Sequence[Example]) -> Sequence[Encoded | None]:
        """Token ids and labels; None where nothing that is to be learned is left."""
        kept = [index for index, example in enumerate(examples) if not example.empty]
        rendered = [self._renderer.render(examples[index]) for index in kept]
        encoded: list[Encoded | None] = [None] * len(examples)
        for index, tokens in zip(kept, self._renderer.tokenize(rendered), strict=True):
            if any(label != IGNORED for label in tokens.labels):
                cells = {"input_ids": tokens.input_ids, "labels": tokens.labels}
                encoded[index] = Encoded(cells, len(tokens.input_ids), tokens.truncated)
        return encoded

    def show(self, example: Example) -> str:
        """One rendered row; what counts in the loss stands between «guillemets»."""
        rendered = self._renderer.render(example)
        shown, end = "", 0
        for span in rendered.learned:
            shown += f"{rendered.text[end : span.start]}«{rendered.text[span.start : span.end]}»"
            end = span.end
        return shown + rendered.text[end:]
