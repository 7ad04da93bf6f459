"""Writing the trained model so that plain transformers or PEFT loads it."""

import logging
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import torch
from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
)
from peft import PeftModel, PeftModelForSequenceClassification
from peft.tuners.tuners_utils import BaseTunerLayer

from aligntune.core.errors import ConfigError, HubPushError, UnauthorizedError
from aligntune.core.files import UNFINISHED, publish
from aligntune.hub import PATIENCE, PUSH_PATIENCE, SET_TOKEN, answers, contact

_REFUSALS = (401, 403)
_log = logging.getLogger(__name__)


def save(
    model: Any,
    weights: dict[str, torch.Tensor] | None,
    tokenizer: Any,
    card: str,
    folder: Path,
    *,
    check: Callable[[], None],
) -> Path:
    """Write weights, tokenizer with chat template, generation config and model card.

    Args:
        model: A transformers or PEFT model.
        weights: Its weights by name, where the model itself holds only a part of them.
        tokenizer: With the chat template of training.
        card: The model card, as Markdown.
        folder: Where it goes; replaced as a whole.
        check: Called before that; raises where it may not be.

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

    return publish(folder, write, check)


def merge_adapters(
    adapter: Any,
    weights: dict[str, torch.Tensor] | None,
    base: Any,
    near: Path,
) -> Any:
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
    near.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=near, prefix=UNFINISHED) as scratch:
        adapter.save_pretrained(scratch, state_dict=weights)
        return merged(PeftModel.from_pretrained(base, scratch))


def check_mergeable(base: Any) -> None:
    """See that adapters to `base` can become part of its weights.

    Raises:
        ConfigError: It comes quantised, so a merge would round them off.
    """
    if getattr(getattr(base, "hf_quantizer", None), "pre_quantized", False):
        raise ConfigError(
            f"model {base.name_or_path!r}: its weights are quantised already, and adapters cannot"
            " be merged into those (model.lora.mergeOnSave, model.gguf, fromJob); name the model"
            " that they were made from, and quantise it with model.quantization"
        )


def merged(adapted: Any) -> Any:
    """A PEFT model's base, with the adapters merged into its weights.

    Many models read and write with one table of tokens. Adapters on one of the two sides leave the
    other as it is, so their side gets a table of its own.

    Raises:
        ConfigError: The base comes quantised.
    """
    base = adapted.get_base_model()
    check_mergeable(base)
    text = base.config.get_text_config()
    sides = (base.get_input_embeddings(), base.get_output_embeddings())
    tied = text.tie_word_embeddings and all(side is not None for side in sides)
    for side in sides:
        if tied and isinstance(side, BaseTunerLayer):
            table = side.get_base_layer()
            table.weight = torch.nn.Parameter(table.weight.detach().clone())
    model = adapted.merge_and_unload()
    if tied and model.get_input_embeddings().weight is not model.get_output_embeddings().weight:
        base.config.tie_word_embeddings = text.tie_word_embeddings = False
    return model


def check_push(repo_id: str, token: str | None = None) -> None:
    """See that the token may write there, as far as the hub tells: before hours of training.

    A hub that does not answer now may do so by the time of the push.

    Raises:
        UnauthorizedError: There is no token, or it may not write to this repository.
    """
    if constants.is_offline_mode() or not answers(PATIENCE):
        _log.warning("hub: it cannot be asked now whether %s can be written", repo_id)
        return
    try:
        who = HfApi(token=token).whoami()
    except LocalTokenNotFoundError as error:
        raise _may_not_write(repo_id, token) from error
    except HfHubHTTPError as error:
        if error.response.status_code not in _REFUSALS:
            _log.warning("hub: it does not say whether %s can be written: %s", repo_id, error)
            return
        raise _may_not_write(repo_id, token) from error
    names = {who["name"], *(organisation["name"] for organisation in who.get("orgs", ()))}
    role = who.get("auth", {}).get("accessToken", {}).get("role")
    owner = repo_id.rpartition("/")[0]
    if role == "read" or (owner and owner not in names):
        raise _may_not_write(repo_id, token)


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
        with suppress(httpx.TransportError):  # what is asked next tells of it
            contact(PUSH_PATIENCE)
        url = hub.create_repo(repo_id, private=private, exist_ok=True)
        # of a name alone the hub makes OWNER/NAME
        hub.upload_folder(repo_id=url.repo_id, folder_path=folder, commit_message=commit_message)
    except HFValidationError as error:
        raise ConfigError(f"hub: {repo_id!r} is no repository: name it OWNER/MODEL") from error
    # uploads run in threads, whose errors huggingface_hub wraps into RuntimeErrors
    except (httpx.HTTPError, OSError, RuntimeError) as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code in _REFUSALS:
            raise _may_not_write(repo_id, token) from error
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        raise HubPushError(f"hub: pushing to {repo_id} failed: {reason}; try again") from error
    return str(url)


def _may_not_write(repo_id: str, token: str | None) -> UnauthorizedError:
    remedy = "use one with write access" if token or get_token() else SET_TOKEN
    return UnauthorizedError(f"hub: the token may not write to {repo_id}; {remedy}")
