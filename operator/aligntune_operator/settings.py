"""What a cluster's owner sets for the operator: by environment variables or options."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, CliApp, NoDecode, SettingsConfigDict, SettingsError

from aligntune.api.run import Backend
from aligntune.api.runtime import EnvVar, LocalObjectRef
from aligntune.core.config.base import Rule, rule_error
from aligntune.core.config.errors import Mistake, mistakes
from aligntune.core.errors import ConfigError

DEFAULT_IMAGE = "aligntune/trainer:0.1.0"
"""Without the backend. A node that has an image of a tag keeps it, so each version has its own."""
ENV_PREFIX = "ALIGNTUNE_OPERATOR_"
OWN_PREFIX = "ALIGNTUNE_"
"""Of variables by which the operator and its trainers talk."""
HUB = r"https?://([A-Za-z0-9._-]+|\[[0-9a-fA-F:.]+\])(:[1-9][0-9]{0,4})?(/[^\s@?#%]*)?"


def _split(names: object) -> object:
    """`a, b` as two names."""
    if not isinstance(names, str):
        return names
    return tuple(filter(None, (name.strip() for name in names.split(","))))


def _not_our_own(variables: tuple[EnvVar, ...]) -> tuple[EnvVar, ...]:
    """Variables of which none tells the trainer what only the operator knows."""
    for name in (variable.name for variable in variables):
        if name.startswith(OWN_PREFIX):
            told = f"{name} begins with {OWN_PREFIX}, as the operator's own do: leave it out"
            raise rule_error(Rule("", told))
    return variables


class Settings(BaseSettings):
    """Each field is an option `--like-this` and a variable `ALIGNTUNE_OPERATOR_LIKE_THIS`."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_parse_none_str="null",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_prog_name="aligntune-operator",
        use_attribute_docstrings=True,
        frozen=True,
    )

    namespaces: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = ()
    """Namespaces to watch, separated by commas. Empty: all of them."""
    trl_image: str = f"{DEFAULT_IMAGE}-trl"
    """Trainer image of jobs with backend trl that name none."""
    unsloth_image: str = f"{DEFAULT_IMAGE}-unsloth"
    """Trainer image of jobs with backend unsloth that name none."""
    fs_group: int | None = 65532
    """Group that owns the pods' volumes, so that a non-root trainer can write to them. null: leave
    it to the platform, as OpenShift wants."""
    mesh_sidecar: bool = False
    """Let a service mesh put its sidecar into training pods that do not say otherwise by a label or
    annotation of their own. A sidecar that is a plain container keeps a Job from ending."""
    image_pull_secrets: tuple[LocalObjectRef, ...] = ()
    """Secrets of the job's namespace with which nodes pull the trainer's image, besides those that
    the job names, as JSON: a list of name."""
    trainer_env: Annotated[tuple[EnvVar, ...], AfterValidator(_not_our_own)] = ()
    """Environment variables of every training pod, as JSON: a list of name and value. A job's own
    of the same name wins; names that begin with ALIGNTUNE_ are the operator's."""
    model_cache: Annotated[str, Field(max_length=253)] = ""
    """A claim with a cache of the hub's models and data, which all training pods share in place of
    an empty one each. Each namespace with jobs needs a claim of this name. Empty: none."""
    workers: Annotated[int, Field(ge=1, le=256)] = 16
    """Jobs reconciled at the same time; an eighth of them may be such that have begun already. 16:
    the API server is the limit long before."""
    poll_interval_seconds: Annotated[float, Field(ge=1, le=3600)] = 10.0
    """Seconds between two looks at a running job's progress, and so between its status writes."""
    poll_concurrency: Annotated[int, Field(ge=1, le=1024)] = 32
    """Progress requests under way at the same time."""
    node_lost_timeout_seconds: Annotated[float, Field(ge=1, le=86_400)] = 60.0
    """Seconds after its grace period until a deleted pod that still exists counts as lost with its
    node, and the next attempt may begin. 60: a kubelet that is alive ends pods in seconds."""
    memory_estimate: Literal["off", "warn", "refuse"] = "warn"
    """What becomes of a job that by an estimate needs more memory than the GPUs have that it may
    get. warn: it begins, and a condition and an Event say so; refuse: it does not begin; off:
    nothing is estimated. It needs the right to list nodes, and their labels with a GPU's memory."""
    hub_endpoint: Annotated[str, Field(max_length=512, pattern=f"^({HUB})?$")] = (
        "https://huggingface.co"
    )
    """The model hub that is asked for the config.json of models, without a token, for the estimate
    of their memory. Empty: none, and nothing is estimated."""
    network_policies: bool = False
    """Make a NetworkPolicy for each job, which lets only its own pods and the observers reach its
    pods. It needs a network that enforces it."""
    observers: tuple[dict[str, Any], ...] = ()
    """Who may ask the pods of such a job for progress and metrics, port 9400, besides the job
    itself: peers of a NetworkPolicy, as JSON. The operator must be one of them."""
    http_port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    """Port of /metrics, /healthz and /readyz. 0: none."""
    lease_namespace: Annotated[str, Field(max_length=63)] = ""
    """Namespace of the Lease by which one of several replicas leads. Empty: this is the only
    one."""
    lease_name: Annotated[str, Field(min_length=1, max_length=63)] = "aligntune-operator"
    """Name of that Lease."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe log record that is written."""

    @property
    def others_at_once(self) -> int:
        """Jobs that have begun already and are reconciled at the same time, at the most."""
        return max(self.workers // 8, 1)

    @property
    def estimates(self) -> Literal["off", "warn", "refuse"]:
        """What an estimate leads to; without a hub there is none."""
        return self.memory_estimate if self.hub_endpoint else "off"

    def trainer_image(self, backend: Backend) -> str:
        """The default image for a backend."""
        return self.trl_image if backend == "trl" else self.unsloth_image


def load_settings(*, command_line: bool = True) -> Settings:
    """The settings from this process's environment, and its command line if that is an operator's.

    Raises:
        ConfigError: Some are wrong; one line of text for each.
    """
    try:
        return CliApp.run(Settings) if command_line else Settings()
    except ValidationError as error:
        raise ConfigError("\n".join(map(_describe, mistakes(error, Settings)))) from error
    except SettingsError as error:
        raise ConfigError(str(error)) from error


def _describe(mistake: Mistake) -> str:
    name = str(mistake.location[0])
    option = f"--{name.replace('_', '-')}"
    return f"{option} ({ENV_PREFIX}{name.upper()}): {mistake.message}"
