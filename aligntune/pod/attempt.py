"""An attempt before anything runs: its config file and its folder."""

from collections.abc import Mapping
from pathlib import Path

from aligntune.api import manifest
from aligntune.api.causes import Cause
from aligntune.api.env import NODE_RANK
from aligntune.api.names import attempt_folder
from aligntune.api.run import RunConfig
from aligntune.core.errors import ConfigError
from aligntune.core.files import ensure_writable
from aligntune.pod.failure import classify


class CannotStartError(Exception):
    """The attempt cannot start; the message is the sentence that a person reads."""

    def __init__(self, cause: Cause, message: str) -> None:
        super().__init__(message)
        self.cause = cause


def read_run_config(path: Path) -> RunConfig:
    """The attempt's config, from JSON or YAML.

    Raises:
        CannotStartError: the file is missing, is no JSON or YAML, or does not say what it must.
    """
    try:
        return manifest.read_run_config(path)
    except manifest.ManifestError as error:
        raise CannotStartError(Cause.CONFIG_ERROR, str(error)) from error


def make_attempt_folder(config: RunConfig) -> Path:
    """The folder for this attempt's logs and outcome, `attempt-N` in the output folder.

    Raises:
        CannotStartError: it cannot be made or written to.
    """
    folder = Path(config.method.output_dir) / attempt_folder(config.attempt)
    try:
        ensure_writable(folder)
    except (ConfigError, OSError) as error:
        raise cannot_write(error) from error
    return folder


def cannot_write(error: ConfigError | OSError) -> CannotStartError:
    """What to raise where the output folder refuses a file."""
    failure = classify(error)
    return CannotStartError(failure.cause, failure.message)


def node_rank(config: RunConfig, env: Mapping[str, str]) -> int:
    """This pod's place in the gang, from the variable that an Indexed Job sets; 0 without it.

    Raises:
        CannotStartError: it is not one of the config's nodes.
    """
    value = env.get(NODE_RANK, "0")
    if not value.isdecimal() or int(value) >= config.nodes:
        raise CannotStartError(
            Cause.CONFIG_ERROR,
            f"{NODE_RANK}: must be a whole number below nodes ({config.nodes}), got {value!r}."
            " Unset it for a run on one machine.",
        )
    return int(value)
