"""A model that is adapters to another, as a whole model that anything can load."""

import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock
from huggingface_hub import constants, snapshot_download
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer
from transformers.utils import find_adapter_config_file

from aligntune.core.config.model import ModelRef
from aligntune.core.errors import ConfigError
from aligntune.core.files import publish
from aligntune.training.model_loading import from_pretrained, make_savable
from aligntune.training.saving import merged

ADAPTER_FILE = "adapter_config.json"
NOT_FETCHED = ["*/*", "*.gguf"]
"""What a repository may hold besides its adapters: checkpoints, and whole models for llama.cpp."""

Named = TypeVar("Named", bound=ModelRef)


def as_whole_model(config: Named, field: str = "model", *, trust_remote_code: bool) -> Named:
    """The same model as a folder of whole weights; `config` itself where it is one already.

    Adapters are merged into their base, once on each machine, into the cache of the hub's client:
    a classifier's head, new adapters, quantisation and other libraries then find a model like any
    other. Its revision is the commit of adapters on the hub.

    Raises:
        ModelNotFoundError, UnauthorizedError: They or their base are not there, or not for this
            token.
        ConfigError: They are for a model that writes no text, or for one that comes quantised.
        OSError: The cache takes no more.
    """
    adapters = adapter_folder(config, field)
    if adapters is None:
        return config
    local = Path(config.name).expanduser().is_dir()
    if local and (adapters / "config.json").is_file():
        return config
    task = json.loads((adapters / ADAPTER_FILE).read_text("utf-8")).get("task_type")
    if task not in (None, "CAUSAL_LM"):
        raise ConfigError(
            f"{field}.name {config.name!r}: its adapters ({task}) are for a model that writes no"
            " text; name a whole model, as model.lora.mergeOnSave saves it"
        )
    whole = Path(constants.HF_HOME) / "aligntune-merged" / fingerprint(adapters)
    whole.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{whole}.lock"):
        if not whole.is_dir():
            found = config.model_copy(update={"name": str(adapters)})
            trust = {"trust_remote_code": trust_remote_code}
            publish(whole, lambda target: _merge(found, field, target, **trust))
    revision = config.revision if local else adapters.name
    return config.model_copy(update={"name": str(whole), "revision": revision})


def adapter_folder(config: ModelRef, field: str = "model") -> Path | None:
    """Where the adapters are, fetched from the hub if need be; None: the model has none.

    Raises:
        ModelNotFoundError, UnauthorizedError: There is no such model, or not for this token.
    """
    found: Path | None = from_pretrained(_Adapters, config, field, revision=config.revision)
    return found


class _Adapters:
    """Loads like a model, so that names are understood and refusals told alike."""

    @staticmethod
    def from_pretrained(name: str, **where: Any) -> Path | None:
        file = find_adapter_config_file(name, **where)
        if file is None:
            return None
        folder = Path(file).parent
        if not Path(name).is_dir():
            commit = {"revision": folder.name}
            snapshot_download(name, ignore_patterns=NOT_FETCHED, **where | commit)
        return folder


def _merge(config: ModelRef, field: str, target: Path, **trust: bool) -> None:
    model = from_pretrained(AutoPeftModelForCausalLM, config, field, dtype="auto", **trust)
    make_savable(model.generation_config)
    merged(model).save_pretrained(target)
    from_pretrained(AutoTokenizer, config, field, **trust).save_pretrained(target)


def fingerprint(folder: Path) -> str:
    """Changes with the files of a model, as far as their names, sizes and times tell."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    seen = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps([str(folder.resolve()), seen]).encode()).hexdigest()[:16]
