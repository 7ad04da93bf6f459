"""A model that is a folder of adapters, as a whole model that anything can load."""

import hashlib
import json
from pathlib import Path

from filelock import FileLock
from huggingface_hub import constants
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

from aligntune.core.config.model import ModelConfig
from aligntune.training.files import publish
from aligntune.training.model_loading import code_and_revision, from_pretrained

ADAPTER_FILE = "adapter_config.json"


def whole(config: ModelConfig) -> ModelConfig:
    """The same model as a folder of whole weights; `config` itself where it is one already.

    Adapters are merged into their base, once on each machine, into the cache of the hub's client:
    a classifier's head, quantisation and other libraries then find a model like any other.

    Raises:
        ModelNotFoundError, UnauthorizedError: Their base is not there, or not for this token.
        OSError: The cache takes no more.
    """
    folder = Path(config.name).expanduser()
    if not (folder / ADAPTER_FILE).is_file() or (folder / "config.json").is_file():
        return config
    merged = Path(constants.HF_HOME) / "aligntune-merged" / _fingerprint(folder)
    merged.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{merged}.lock"):
        if not merged.is_dir():
            publish(merged, lambda target: _merge(config, target))
    return config.model_copy(update={"name": str(merged)})


def _merge(config: ModelConfig, target: Path) -> None:
    arguments = code_and_revision(config)
    model = from_pretrained(AutoPeftModelForCausalLM, config, dtype="auto", **arguments)
    model.merge_and_unload().save_pretrained(target)
    from_pretrained(AutoTokenizer, config, **arguments).save_pretrained(target)


def _fingerprint(folder: Path) -> str:
    """Changes with the adapters, so that new ones under the same name are merged anew."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    seen = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps([str(folder.resolve()), seen]).encode()).hexdigest()[:16]
