"""Command line: python -m tests.cluster up | down | status | images | install."""

from pathlib import Path
from typing import Annotated

import typer

from tests.cluster import images, packages
from tests.cluster.cluster import Cluster
from tests.cluster.control_plane import ControlPlane
from tests.cluster.processes import REPOSITORY, Processes

app = typer.Typer(
    help="A real Kubernetes on this machine, for tests.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
State = Annotated[Path, typer.Option(help="Folder for everything the cluster writes.")]
DEFAULT_STATE = REPOSITORY / ".cluster"


@app.command()
def up(
    *,
    state: State = DEFAULT_STATE,
    control_plane_only: Annotated[bool, typer.Option(help="No node, and no root needed.")] = False,
) -> None:
    """Start a fresh cluster, over whatever an earlier one left in its folder."""
    cluster: Cluster | ControlPlane
    if control_plane_only:
        cluster = ControlPlane(state, scheduler=True, outlive_parent=True)
    else:
        if packages.missing():
            packages.install()
        cluster = Cluster(state, outlive_parent=True)
    cluster.start()
    typer.echo("The cluster is up. To use it:")
    typer.echo(f"export KUBECONFIG={cluster.kubeconfig} PATH={cluster.state}/bin:$PATH")


@app.command()
def down(*, state: State = DEFAULT_STATE) -> None:
    """Stop the cluster; its logs stay."""
    Cluster(state).stop()


@app.command()
def status(*, state: State = DEFAULT_STATE) -> None:
    """List the cluster's processes."""
    for process in Processes(state.resolve()).running():
        typer.echo(f"{process.pid:>8} {process.name()}")


@app.command(name="images")
def build_images() -> None:
    """Build the operator's image and the bare trainer images; print the archives' paths."""
    for archive in (images.operator(), *images.trainers()):
        typer.echo(archive)


@app.command()
def install() -> None:
    """Install what a node needs from Debian's archive."""
    packages.install()


if __name__ == "__main__":
    app()
