"""Command line: python -m tests.cluster up | down | status."""

from pathlib import Path
from typing import Annotated

import typer

from tests.cluster.control_plane import ControlPlane
from tests.cluster.processes import Processes

REPOSITORY = Path(__file__).parents[2]

app = typer.Typer(help="A real Kubernetes on this machine, for tests.", no_args_is_help=True)
State = Annotated[Path, typer.Option(help="Folder for everything the cluster writes.")]
DEFAULT_STATE = REPOSITORY / ".cluster"


@app.command()
def up(
    *,
    state: State = DEFAULT_STATE,
    control_plane_only: Annotated[bool, typer.Option(help="No node, and no root needed.")] = False,
) -> None:
    """Start a fresh cluster, over whatever an earlier one left in its folder."""
    if not control_plane_only:
        raise typer.BadParameter("only --control-plane-only is supported so far.")
    cluster = ControlPlane(state, scheduler=True, outlive_parent=True)
    cluster.start()
    typer.echo(f"The cluster is up: export KUBECONFIG={cluster.kubeconfig}")


@app.command()
def down(*, state: State = DEFAULT_STATE) -> None:
    """Stop the cluster; its logs stay."""
    ControlPlane(state).stop()


@app.command()
def status(*, state: State = DEFAULT_STATE) -> None:
    """List the cluster's processes."""
    for process in Processes(state.resolve()).running():
        typer.echo(f"{process.pid:>8} {process.name()}")


if __name__ == "__main__":
    app()
