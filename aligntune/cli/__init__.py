"""The command line: a table of commands, and what becomes of a person's mistake."""

import os
import sys
import traceback
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from aligntune.api import env
from aligntune.api.exit_codes import ExitCode
from aligntune.cli import cluster, local
from aligntune.cluster.errors import ClusterError
from aligntune.core.errors import RunError

PLUGIN = "kubectl-aligntune"
"""The program by which kubectl finds this one."""

EXTRAS = {
    "aiohttp": "operator",
    "kopf": "operator",
    "pydantic_settings": "operator",
    "httpx": "trl",
    "huggingface_hub": "trl",
    "kubernetes": "cluster",
    "matplotlib": "plot",
}
"""Packages -> the extra that installs them."""

COMMANDS: dict[str, dict[str, Callable[..., None]]] = {
    "On this machine": {
        "validate": local.validate,
        "render": local.render,
        "estimate": local.estimate,
        "run": local.run,
    },
    "On a cluster": {
        "submit": cluster.submit,
        "list": cluster.list_jobs,
        "status": cluster.status,
        "watch": cluster.watch,
        "logs": cluster.logs,
        "plot": cluster.plot,
        "suspend": cluster.suspend,
        "resume": cluster.resume,
        "delete": cluster.delete,
    },
    "In a pod": {"launch": local.launch, "train": local.train},
}
"""Panels of the help -> names -> commands."""

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
for panel, commands in COMMANDS.items():
    for name, command in commands.items():
        app.command(name, rich_help_panel=panel)(command)


def main() -> None:
    """Runs a command; a person's mistake is a sentence and an exit code, not a traceback."""
    plugin = Path(sys.argv[0]).name == PLUGIN
    try:
        app(prog_name="kubectl aligntune" if plugin else None)
    except RunError as error:
        if os.environ.get(env.DEBUG):
            traceback.print_exc()
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code if isinstance(error, ClusterError) else ExitCode.BAD_CONFIG)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        sys.stderr.write(
            f"this needs {error.name}: install aligntune-operator with its extra [{extra}]\n"
        )
        sys.exit(ExitCode.BAD_CONFIG)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("aligntune-operator"))
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show a traceback with every mistake.")
    ] = False,
    show_version: Annotated[  # noqa: ARG001 - its callback answers
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Fine-tune and align language models, on this machine or on Kubernetes."""
    if debug:
        os.environ[env.DEBUG] = "1"  # for the processes that train, too
