"""`aligntune status` of words that others chose; an HTTP server plays the API server."""

import json
import threading
import unicodedata
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from aligntune.cli import app

SINCE = "2026-11-01T12:00:00Z"

Show = Callable[[dict[str, Any]], str]


@pytest.fixture
def show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Show]:
    """What is printed of a job with a status."""
    monkeypatch.delenv("COLUMNS", raising=False)
    metadata = {"name": "chat", "namespace": "research", "uid": "u", "creationTimestamp": SINCE}
    body: dict[str, Any] = {"metadata": metadata, "spec": {}}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_address[1]}"}}
    context = {"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "research"}}
    kubeconfig = tmp_path / "kubeconfig"
    YAML().dump(
        {
            "clusters": [address],
            "contexts": [context],
            "users": [{"name": "u", "user": {}}],
            "current-context": "c",
        },
        kubeconfig,
    )

    def printed(status: dict[str, Any]) -> str:
        body["status"] = status
        arguments = ["status", "chat", "--kubeconfig", str(kubeconfig)]
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    yield printed
    server.shutdown()
    server.server_close()


def condition(message: str) -> dict[str, Any]:
    return {
        "type": "Reconciling",
        "status": "True",
        "reason": "CannotCreateJob",
        "message": message,
        "lastTransitionTime": SINCE,
    }


@pytest.mark.parametrize(
    "words",
    [
        "the chat template refuses row 3: expected [INST] ... [/INST]",
        "unmounted volumes=[storage], unattached volumes=[]",
        "[bold]open[/bold]: no such file",
        "image registry:smile:latest",
    ],
)
def test_words_that_look_like_markup_are_shown_as_they_are(show: Show, words: str) -> None:
    page = show(
        {
            "phase": "Failed",
            "failure": {"reason": "DataError", "message": words, "retryable": False},
            "trackerUrls": {"wandb": f"https://wandb.example/{words}"},
            "conditions": [condition(words)],
        }
    )
    assert page.count(words) == 3


def test_words_of_a_tenant_do_not_reach_the_terminal_as_commands(show: Show) -> None:
    """The case of CVE-2021-25743, which was kubectl's."""
    words = "\x1b]0;title\x07\x1b[2J\x9b31m\r\x00\x7fone\ntwo\tthree"
    page = show(
        {
            "phase": "Failed",
            "failure": {
                "reason": "Unknown",
                "message": words,
                "retryable": False,
                "logTail": words,
                "pod": words,
            },
            "attempts": {"current": 1, "history": [{"attempt": 1, "job": "j", "reason": words}]},
            "metrics": {words: 1.0},
            "trackerUrls": {words: f"https://wandb.example/{words}"},
            "conditions": [condition(words)],
        }
    )
    assert {letter for letter in page if unicodedata.category(letter) == "Cc"} == {"\n"}
    assert "\N{REPLACEMENT CHARACTER}]0;title\N{REPLACEMENT CHARACTER}" in page
