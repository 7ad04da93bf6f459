"""Answering questions with a model, in the form that it is trained in."""

from collections.abc import Callable, Sequence
from typing import Any

from aligntune.core.conversation import Message, Question, is_one
from aligntune.data.rendering import render
from aligntune.training.inference import inference


class Answers:
    """`predict` of a trainer whose model writes text."""

    model: Any
    tokenizer: Any
    arguments: Any
    ensure_model: Callable[[], None]

    def predict(
        self,
        questions: Question | Sequence[Question],
        *,
        max_new_tokens: int = 256,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> str | list[str]:
        """Answer one question or a list of them, in the form that training uses.

        Args:
            questions: A text, a conversation, or a list of either.
            max_new_tokens: Longest answer, in tokens.
            do_sample: Sample the answer; else the likeliest next token is taken each time.
            temperature: Of the softmax that is sampled from.
            top_p: Sample from the likeliest tokens that have this probability together.

        Returns:
            The answer, or a list of as many answers as questions.
        """
        self.ensure_model()
        sampling: dict[str, object] = (
            {"temperature": temperature, "top_p": top_p} if do_sample else {}
        )
        sampling |= {"max_new_tokens": max_new_tokens, "do_sample": do_sample}
        single = is_one(questions)
        asked: Any = [questions] if single else questions
        size = self.arguments.per_device_eval_batch_size
        answers = [
            text
            for start in range(0, len(asked), size)
            for text in answer(self.model, self.tokenizer, asked[start : start + size], **sampling)
        ]
        return answers[0] if single else answers


def answer(
    model: Any,
    tokenizer: Any,
    asked: Sequence[Question],
    **generation: object,
) -> list[str]:
    """Generate an answer to each of some questions, in one batch.

    Args:
        model: Generates; its training mode is restored afterwards.
        tokenizer: With the chat template of training.
        asked: Texts and conversations.
        **generation: What `model.generate` takes.

    Raises:
        DataError: The chat template refuses a conversation.
        ConfigError: The chat template is invalid.
    """
    prompts = [render(tokenizer, _conversation(one), asks=True) for one in asked]
    batch = tokenizer(
        prompts,
        add_special_tokens=False,
        padding=True,
        padding_side="left",
        return_tensors="pt",
        return_token_type_ids=False,
    ).to(model.device)
    with inference(model):
        sequences = model.generate(**batch, pad_token_id=tokenizer.pad_token_id, **generation)
    answers = tokenizer.batch_decode(
        sequences[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
    )
    return [text.strip() for text in answers]


def _conversation(question: Any) -> list[Message]:
    if isinstance(question, str):
        return [{"role": "user", "content": question}]
    return list(question)
