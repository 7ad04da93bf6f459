"""What a cluster's owner sets for the operator: by environment variables or options."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from aligntune.api.run import Backend

DEFAULT_IMAGE = "aligntune/trainer"


class Settings(BaseSettings):
    """Each field is an option `--like-this` and a variable `ALIGNTUNE_OPERATOR_LIKE_THIS`."""

    model_config = SettingsConfigDict(
        env_prefix="ALIGNTUNE_OPERATOR_",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_prog_name="aligntune-operator",
        use_attribute_docstrings=True,
        frozen=True,
    )

    namespaces: tuple[str, ...] = ()
    """Namespaces to watch. Empty: all of them."""
    trl_image: str = f"{DEFAULT_IMAGE}:trl"
    """Trainer image of jobs with backend trl that name none."""
    unsloth_image: str = f"{DEFAULT_IMAGE}:unsloth"
    """Trainer image of jobs with backend unsloth that name none."""
    fs_group: int | None = 65532
    """Group that owns the pods' volumes, so that a non-root trainer can write to them. null: leave
    it to the platform, as OpenShift wants."""
    workers: Annotated[int, Field(ge=1, le=256)] = 16
    """Jobs reconciled at the same time. 16: the API server is the limit long before."""
    poll_interval_seconds: Annotated[float, Field(ge=1, le=3600)] = 10.0
    """Seconds between two looks at a running job's progress, and so between its status writes."""
    poll_concurrency: Annotated[int, Field(ge=1, le=1024)] = 32
    """Progress requests under way at the same time."""
    http_port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    """Port of /metrics, /healthz and /readyz. 0: none."""
    log_level: str = "INFO"
    """Least severe log record that is written."""

    def trainer_image(self, backend: Backend) -> str:
        """The default image for a backend."""
        return self.trl_image if backend == "trl" else self.unsloth_image
