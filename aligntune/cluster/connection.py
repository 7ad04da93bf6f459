"""Which cluster and namespace are meant, by the rules of kubectl."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from kubernetes import client, config
from urllib3.util import Retry

from aligntune.api.exit_codes import ExitCode
from aligntune.api.kubeconfig import kubeconfig_files, login_plugin, read_kubeconfig
from aligntune.cluster.errors import ClusterError

PATIENCE = Retry(
    connect=0, read=0, redirect=0, status=5, status_forcelist=[429], allowed_methods=None,
    raise_on_status=False,
)  # fmt: skip
"""An API server that is busy says when to ask again, and nothing has happened yet; what else fails
is told at once."""

IN_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class Connection(NamedTuple):
    """How the API server is reached, and the namespace that a command is about."""

    api: client.ApiClient
    namespace: str

    @property
    def server(self) -> str:
        """URL of the API server."""
        return str(self.api.configuration.host)


def connect(kubeconfig: Path | None, context: str | None, namespace: str | None) -> Connection:
    """By a kubeconfig (the option, `KUBECONFIG`, `~/.kube/config`), or from inside a pod.

    Args:
        kubeconfig: The file; None: where kubectl looks.
        context: Its context; None: the current one.
        namespace: The namespace; None: the context's, or that of the pod.

    Raises:
        ConfigError: The file is no kubeconfig.
        ClusterError: There is no such file or context, or its user cannot be logged in.
    """
    files = [kubeconfig] if kubeconfig else kubeconfig_files()
    if not any(file.is_file() for file in files):
        if kubeconfig is None and (IN_POD / "token").is_file():
            return _inside(namespace)
        raise ClusterError(
            f"no cluster is configured: {files[0]} is not there."
            " Name a kubeconfig with --kubeconfig or KUBECONFIG",
            ExitCode.BAD_CONFIG,
        )
    named = os.pathsep.join(str(file) for file in files)
    configs = [read_kubeconfig(file) for file in files if file.is_file()]
    try:
        contexts, current = config.list_kube_config_contexts(named)
        by_name = {found["name"]: found for found in contexts}
        if context is not None and context not in by_name:
            raise ClusterError(
                f"--context: no {context!r} in {named}; there are: {', '.join(sorted(by_name))}",
                ExitCode.BAD_CONFIG,
            )
        chosen = by_name[context] if context else current
        settings = _settings()
        with _errors() as told:
            config.load_kube_config(named, chosen["name"], settings)
    except config.ConfigException as error:
        reason = " ".join(str(error).split())
        raise ClusterError(f"{named}: {reason}", ExitCode.BAD_CONFIG) from error
    plugin = login_plugin(configs, chosen["name"])
    if plugin and told:
        raise ClusterError(
            f"{named}: {plugin!r} does not log you in to {chosen['name']} ({told[0]}): install it,"
            " or see what it says when run by itself",
            ExitCode.NOT_AUTHORISED,
        )
    namespace = namespace or chosen["context"].get("namespace") or "default"
    return Connection(client.ApiClient(settings), namespace)


@contextmanager
def _errors() -> Iterator[list[str]]:
    """What the client logs as an error: it goes on without credentials where a plugin fails."""
    told: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        told.append(" ".join(record.getMessage().split()))
        return False

    root = logging.getLogger()
    root.addFilter(keep)
    try:
        yield told
    finally:
        root.removeFilter(keep)


def _inside(namespace: str | None) -> Connection:
    """With the pod's own service account."""
    settings = _settings()
    config.load_incluster_config(settings)
    own = (IN_POD / "namespace").read_text(encoding="utf-8").strip()
    return Connection(client.ApiClient(settings), namespace or own)


def _settings() -> client.Configuration:
    settings = client.Configuration()
    settings.retries = PATIENCE
    return settings
