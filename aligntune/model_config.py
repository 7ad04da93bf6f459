"""Reading the shape of a model from its config.json, in a folder or on the hub."""

import json
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import (
    get_local_safetensors_metadata,
    get_safetensors_metadata,
    hf_hub_download,
)
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, NotASafetensorsRepoError

from aligntune.core.config.model import ModelRef
from aligntune.core.errors import ConfigError, ModelNotFoundError
from aligntune.core.memory.shape import FAMILIES, ModelShape, shape_of
from aligntune.hub import HubRepo, is_path, probe_hub

FILE = "config.json"
ABSENT = f"has no {FILE}; for adapters, name a copy of their base model with --model FOLDER"


def read_shape(model: ModelRef, field: str = "model") -> ModelShape:
    """The shape of a model, from its config.json: a few kB, no weights.

    Of kinds of models that are not known here, the parameters are counted in the headers of their
    safetensors files.

    Args:
        model: Names the model, and its revision on the hub.
        field: The section of the config that names it, for messages.

    Raises:
        ModelNotFoundError, UnauthorizedError: There is none, or not for this token.
        HubUnreachableError: The hub cannot be reached, and the cache does not have it.
        ConfigError: Its memory cannot be told from its config.json.
    """
    place = f"{field}.name {model.name!r}"
    folder = Path(model.name).expanduser()
    local = folder.is_dir() or is_path(model.name)
    file = _in_folder(folder, place) if local else _on_hub(model, field)
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{place}: its {FILE} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{place}: its {FILE} is no JSON object")
    known = content.get("model_type") in FAMILIES
    counted = None if known else _counted(folder if local else model)
    return shape_of(content, place, counted)


def shape_at(
    model: ModelRef,
    folder: Path | None,
    stages: Mapping[str, ModelShape],
    field: str = "model",
) -> ModelShape:
    """The shape of a model that a manifest names.

    Args:
        model: As the manifest names it.
        folder: Has its config.json, where the model itself is not on this machine.
        stages: The models of other jobs, by job: one of them may be meant.
        field: The section that names it.

    Raises:
        ConfigError: It is a job's that is not among the stages; otherwise as `read_shape`.
    """
    if model.from_job is not None and model.from_job in stages:
        return stages[model.from_job]
    if model.from_job is not None and folder is None:
        option = "--model" if field == "model" else "--reward-model"
        raise ConfigError(
            f"{field}.fromJob: there is no job {model.from_job} before it in this file; say with"
            f" {option} FOLDER where the config.json of its model is"
        )
    name = model.name if folder is None else str(folder)
    return read_shape(ModelRef(name=name, revision=model.revision), field)


def _in_folder(folder: Path, place: str) -> Path:
    if not folder.is_dir():
        raise ModelNotFoundError(
            f"{place}: there is no such folder on this machine; if it is in the"
            " pod, name a copy with --model FOLDER"
        )
    if not (folder / FILE).is_file():
        raise ModelNotFoundError(f"{place}: the folder {ABSENT}")
    return folder / FILE


def _on_hub(model: ModelRef, field: str) -> Path:
    repo = HubRepo("model", field, model.name, model.revision)
    cached_only = probe_hub() is not None
    try:
        return Path(
            hf_hub_download(model.name, FILE, revision=model.revision, local_files_only=cached_only)
        )
    except EntryNotFoundError as error:
        explained = repo.explained(error) if cached_only else None
        raise (
            explained or ModelNotFoundError(f"{field}.name {model.name!r}: it {ABSENT}")
        ) from error
    except (OSError, ValueError) as error:
        explained = repo.explained(error)
        if explained is None:
            raise
        raise explained from error


def _counted(model: Path | ModelRef) -> int | None:
    """The parameters in a model's safetensors files; None: there are none, or nobody to ask."""
    try:
        found = (
            get_local_safetensors_metadata(model)
            if isinstance(model, Path)
            else get_safetensors_metadata(model.name, revision=model.revision)
        )
    except (NotASafetensorsRepoError, HfHubHTTPError, OSError):
        return None
    return sum(found.parameter_count.values())
