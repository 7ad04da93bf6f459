"""kubectl's options that say which cluster a command is about."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, NamedTuple, get_type_hints

import typer

from aligntune.api.nesting import deep_objects
from aligntune.core.errors import RunError

if TYPE_CHECKING:
    from aligntune.cluster.client import Cluster


class Target(NamedTuple):
    """Which cluster, and which namespace of it; None: what the kubeconfig says."""

    namespace: str | None
    context: str | None
    kubeconfig: Path | None

    def connect(self) -> "Cluster":
        """Ready to ask; the client's import takes long, and commands without a cluster lack it.

        Raises:
            ClusterError: There is no such cluster.
        """
        from aligntune.cluster.client import Cluster
        from aligntune.cluster.connection import connect

        return Cluster(connect(self.kubeconfig, self.context, self.namespace))


OPTIONS: dict[str, Any] = {
    "namespace": Annotated[
        str | None, typer.Option("--namespace", "-n", help="Unset: the context's.")
    ],
    "context": Annotated[
        str | None, typer.Option(help="Context of the kubeconfig. Unset: the current one.")
    ],
    "kubeconfig": Annotated[
        Path | None, typer.Option(help="Unset: KUBECONFIG, or ~/.kube/config, or the pod's own.")
    ],
}
"""The options by the fields of `Target`, as typer understands them."""


def on_cluster(command: Callable[Concatenate[Target, ...], None]) -> Callable[..., None]:
    """Gives a command kubectl's options in place of its first parameter, the target."""

    @functools.wraps(command)
    def with_options(**arguments: Any) -> None:  # noqa: ANN401 - typer has looked at them
        target = Target(**{name: arguments.pop(name) for name in OPTIONS})
        with deep_objects():
            command(target, **arguments)

    first, *own = inspect.signature(command).parameters.values()
    hints = get_type_hints(command, include_extras=True)
    del hints[first.name]
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
        for name, option in OPTIONS.items()
    ]
    with_options.__annotations__ = hints | OPTIONS
    with_options.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
    return with_options


def job_names(context: typer.Context, incomplete: str) -> list[str]:
    """Names of jobs that begin so; none where the cluster does not tell."""
    target = Target(*(context.params.get(name) for name in Target._fields))
    try:
        with deep_objects():
            found = [item["metadata"]["name"] for item in target.connect().jobs()]
    except (RunError, ModuleNotFoundError):
        return []
    return [name for name in found if name.startswith(incomplete)]
