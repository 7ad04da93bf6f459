"""Writing the trained model so that plain transformers or PEFT loads it."""

import tempfile
from pathlib import Path
from typing import Any

import httpx
import torch
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from peft import PeftModel, PeftModelForSequenceClassification

from aligntune.core.errors import ConfigError, HubPushError, UnauthorizedError
from aligntune.hub import PUSH_PATIENCE, SET_TOKEN, contact
from aligntune.training.files import publish


def save(
    model: Any,  # noqa: ANN401 - a transformers or PEFT model
    weights: dict[str, torch.Tensor] | None,
    tokenizer: Any,  # noqa: ANN401
    card: str,
    folder: Path,
) -> Path:
    """Write weights, tokenizer with chat template, generation config and model card.

    Args:
        model: A transformers or PEFT model.
        weights: Its weights by name, where the model itself holds only a part of them.
        tokenizer: With the chat template of training.
        card: The model card, as Markdown.
        folder: Where it goes; replaced as a whole.

    Raises:
        OSError: The disk is full, or the place cannot be written; nothing is left then.
    """

    def write(unfinished: Path) -> None:
        model.save_pretrained(unfinished, state_dict=weights)
        if isinstance(model, PeftModelForSequenceClassification):
            model.config.save_pretrained(unfinished)  # the head's size and the classes' names
        tokenizer.save_pretrained(unfinished)
        if getattr(model, "generation_config", None) is not None:  # a classifier has none
            model.generation_config.save_pretrained(unfinished)
        (unfinished / "README.md").write_text(card, "utf-8")

    return publish(folder, write)


def merged(
    adapter: Any,  # noqa: ANN401
    weights: dict[str, torch.Tensor] | None,
    base: Any,  # noqa: ANN401
    near: Path,
) -> Any:  # noqa: ANN401
    """`base` with the adapters merged into its weights.

    The model in training is left as it is; a quantised base would lose precision in a merge.

    Args:
        adapter: The PEFT model.
        weights: Its weights by name, where the model itself holds only a part of them.
        base: The model that the adapters are for, loaded anew in 16 bits.
        near: Where the adapters may lie on their way.
    """
    if getattr(adapter, "generation_config", None) is not None:  # a classifier has none
        base.generation_config = adapter.generation_config
    with tempfile.TemporaryDirectory(dir=near) as scratch:
        adapter.save_pretrained(scratch, state_dict=weights)
        return PeftModel.from_pretrained(base, scratch).merge_and_unload()


def push(
    folder: Path, repo_id: str, *, private: bool, token: str | None, commit_message: str
) -> str:
    """Upload a saved model; returns the URL of its page.

    Raises:
        UnauthorizedError: The hub refuses the token.
        ConfigError: No repository can have this name.
        HubPushError: Anything else went wrong on the way.
    """
    hub = HfApi(token=token)
    try:
        contact(PUSH_PATIENCE)
        url = hub.create_repo(repo_id, private=private, exist_ok=True)
        hub.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=commit_message)
    except HFValidationError as error:
        raise ConfigError(f"hub: {repo_id!r} is no repository: name it OWNER/MODEL") from error
    # uploads run in threads, whose errors huggingface_hub wraps into RuntimeErrors
    except (httpx.HTTPError, OSError, RuntimeError) as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
            remedy = "use one with write access" if token or get_token() else SET_TOKEN
            raise UnauthorizedError(
                f"hub: the token may not write to {repo_id}; {remedy}"
            ) from error
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        raise HubPushError(f"hub: pushing to {repo_id} failed: {reason}; try again") from error
    return str(url)
