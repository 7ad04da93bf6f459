"""Kubeconfigs that are not as they should be: what the command line and the operator say."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from aligntune.api.kubeconfig import login_plugin, read_kubeconfig
from aligntune.cluster.connection import connect
from aligntune.cluster.errors import ClusterError
from aligntune.core.errors import ConfigError
from aligntune_operator import session
from aligntune_operator.handlers import kopf_settings

WRONG = [
    pytest.param("foo: [", ":1: malformed YAML", id="malformed"),
    pytest.param("no mapping at all", ": not a mapping of clusters", id="plain-text"),
    pytest.param("contexts: 5", ": contexts: not a list of entries", id="number-for-a-list"),
    pytest.param("users: [me]", ": users: not a list of entries", id="entry-without-name"),
]


def kubeconfig(folder: Path, **user: Any) -> Path:
    file = folder / "kubeconfig"
    config = {
        "current-context": "lab",
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "me"}}],
        "clusters": [{"name": "lab", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "me", "user": user}],
    }
    file.write_text(json.dumps(config))
    return file


def plugin(command: str) -> dict[str, Any]:
    api = "client.authentication.k8s.io/v1"
    return {"exec": {"apiVersion": api, "command": command, "interactiveMode": "Never"}}


def script(folder: Path, text: str) -> str:
    file = folder / "plugin"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return str(file)


def operator(file: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "aligntune_operator", "--http-port", "0"],
        env=os.environ | {"KUBECONFIG": str(file)},
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize(("text", "told"), WRONG)
def test_what_is_no_kubeconfig_is_a_sentence_that_names_the_file(
    tmp_path: Path, text: str, told: str
) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(text)
    with pytest.raises(ConfigError) as wrong:
        connect(file, None, None)
    assert str(wrong.value).startswith(f"{file}{told}")
    assert str(wrong.value).endswith("mend this kubeconfig, or name another")


def test_a_login_plugin_that_is_missing_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = kubeconfig(tmp_path, **plugin("no-such-plugin"))
    with pytest.raises(ClusterError) as wrong:
        connect(file, None, None)
    assert str(wrong.value).startswith(f"{file}: 'no-such-plugin' does not log you in to lab (")
    assert wrong.value.exit_code == 77
    assert caplog.messages == [], "the sentence is all that is told"


def test_what_a_login_plugin_says_as_it_fails_is_told(tmp_path: Path) -> None:
    command = script(tmp_path, "echo the session has expired >&2; exit 1")
    with pytest.raises(ClusterError, match="the session has expired"):
        connect(kubeconfig(tmp_path, **plugin(command)), None, None)


def test_a_login_plugin_that_works_is_used(tmp_path: Path) -> None:
    credential = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": "opened"},
    }
    command = script(tmp_path, f"echo '{json.dumps(credential)}'")
    connection = connect(kubeconfig(tmp_path, **plugin(command)), None, None)
    assert "Bearer opened" in connection.api.configuration.api_key.values()


def test_of_several_kubeconfigs_the_first_with_a_name_counts(tmp_path: Path) -> None:
    own = read_kubeconfig(kubeconfig(tmp_path, **plugin("own")))
    others = read_kubeconfig(kubeconfig(tmp_path, **plugin("others")))
    assert login_plugin([{"users": None}, own, others]) == "own"
    assert login_plugin([own], "absent") == ""


@pytest.mark.parametrize(("text", "told"), WRONG[:2])
def test_the_operator_is_told_the_same(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(text)
    ended = operator(file)
    assert ended.stderr.startswith(f"aligntune-operator: {file}{told}")
    assert len(ended.stderr.splitlines()) == 1
    assert ended.returncode == 78


def test_the_operator_says_that_it_runs_no_login_plugin(tmp_path: Path) -> None:
    ended = operator(kubeconfig(tmp_path, **plugin("no-such-plugin")))
    assert "logged in by 'no-such-plugin', which the operator does not run" in ended.stderr
    assert ended.returncode == 78


def test_the_operator_needs_a_current_context(tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text("contexts: []")
    ended = operator(file)
    assert f"{file}: the current context names no cluster and user" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


async def test_the_operator_sends_the_token_that_the_kubeconfigs_token_file_has_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, token="old", tokenFile="token")))
    (tmp_path / "token").write_text("first\n")
    sent: list[str] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        sent.append(request.headers["Authorization"])
        return web.Response(status=401)

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    connection = session.connect(kopf_settings())
    for renewed in ("second", "third"):
        async with connection.session.get(f"{site.name}/version"):
            (tmp_path / "token").write_text(renewed)
    await connection.close()
    await runner.cleanup()
    assert sent == ["Bearer first", "Bearer second"]


async def test_as_many_pods_are_asked_at_once_as_the_poller_lets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, token="secret")))
    connection = session.connect(kopf_settings())
    limits = [opened.connector and opened.connector.limit for opened in connection[:3]]
    await connection.close()
    assert limits == [0, 0, 0]


def test_the_operator_says_that_the_kubeconfigs_token_file_is_not_there(tmp_path: Path) -> None:
    file = kubeconfig(tmp_path, tokenFile="token")
    told = operator(file)
    assert told.returncode == 78
    assert told.stderr == (
        f"aligntune-operator: {file}: there is no tokenFile {tmp_path}/token: name the file that"
        " has the token\n"
    )
