"""Kubeconfigs: where they are, what is wrong with one, who logs its user in, and where its token
lies.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aligntune.api.manifest import ManifestError, read_yaml
from aligntune.core.config.base import plain
from aligntune.core.errors import ConfigError

REMEDY = "mend this kubeconfig, or name another"

Kubeconfig = dict[str, Any]


def kubeconfig_files() -> list[Path]:
    """Those that `KUBECONFIG` names, else the one that is usual; they may not be there."""
    named = os.environ.get("KUBECONFIG", "").split(os.pathsep)
    files = [Path(file.strip()).expanduser() for file in named if file.strip()]
    return files or [Path("~/.kube/config").expanduser()]


def read_kubeconfig(path: Path) -> Kubeconfig:
    """A kubeconfig whose lists are lists of what has a name; clients take that for granted.

    Raises:
        ConfigError: It is none.
    """
    try:
        documents = read_yaml(path)
    except ManifestError as error:
        raise ConfigError(f"{error}: {REMEDY}") from error
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise ConfigError(f"{path}: not a mapping of clusters, contexts and users: {REMEDY}")
    config: Kubeconfig = plain(documents[0])
    for section in ("clusters", "contexts", "users"):
        entries = config.get(section) or []
        if not isinstance(entries, list) or not all(map(_is_named, entries)):
            raise ConfigError(f"{path}: {section}: not a list of entries with names: {REMEDY}")
    return config


def login_plugin(configs: Sequence[Kubeconfig], context: str | None = None) -> str:
    """The command that logs a context's user in; empty: none does.

    Args:
        configs: The files, of which the first that has a name counts.
        context: The context; None: the current one.
    """
    plugin = _entry(configs, "users", _user(configs, context), "user").get("exec") or {}
    return str(plugin.get("command", ""))


def token_file(files: Sequence[Path], configs: Sequence[Kubeconfig]) -> Path | None:
    """Where the current context's user has a token that somebody renews; None: nowhere.

    Args:
        files: Where the configs were read; a path that is not absolute is one from there.
        configs: What they say, of which the first that has a name counts.
    """
    user = _user(configs, None)
    for file, config in zip(files, configs, strict=True):
        if entry := _entry([config], "users", user, "user"):
            named = entry.get("tokenFile")
            return file.parent / str(named) if named else None
    return None


def _user(configs: Sequence[Kubeconfig], context: str | None) -> object:
    """The name of a context's user; None for the context: of the current one."""
    current = (config["current-context"] for config in configs if config.get("current-context"))
    name = context or next(current, None)
    return _entry(configs, "contexts", name, "context").get("user")


def _entry(
    configs: Sequence[Kubeconfig], section: str, name: object, content: str
) -> dict[str, Any]:
    entries = [entry for config in configs for entry in config.get(section) or ()]
    return next((entry.get(content) or {} for entry in entries if entry["name"] == name), {})


def _is_named(entry: object) -> bool:
    return isinstance(entry, dict) and "name" in entry
