"""What becomes of commands that last, when the API server or the way there breaks off.

A stand-in for the API server answers each request as it is told; what it should have said it does
not know.
"""

import json
import os
import subprocess
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from signal import SIGKILL
from subprocess import PIPE
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from kubernetes import client
from kubernetes.stream.ws_client import ABNF, ERROR_CHANNEL, STDOUT_CHANNEL

from aligntune.cluster.client import Cluster, _output
from aligntune.cluster.connection import Connection
from aligntune.cluster.errors import ClusterError
from aligntune.cluster.logs import unseen
from aligntune.cluster.patience import WAITS, patiently
from aligntune.cluster.reader import follow_command
from aligntune.cluster.stored import read
from tests.unit.test_people_tools_decisions import job

pytestmark = pytest.mark.timeout(60)  # what asks too often would go on for minutes

Answer = Callable[[BaseHTTPRequestHandler], None]
WEBSOCKET = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""What a server of websockets adds to a client's key, by RFC 6455."""


class Server(ThreadingHTTPServer):
    """Answers the requests in order; what is silent stays so until the end."""

    daemon_threads = True

    def __init__(self, *answers: Answer) -> None:
        left = iter(answers)
        self.over = threading.Event()
        self.asked: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.asked.append(self.path)
                self.close_connection = True
                next(left)(self)

            do_POST = do_DELETE = do_GET  # noqa: N815 - the base's names

            def log_message(self, *_: object) -> None:
                pass

        server = self
        super().__init__(("127.0.0.1", 0), Handler)

    def cluster(self) -> Cluster:
        settings = client.Configuration(host=f"http://127.0.0.1:{self.server_address[1]}")
        settings.retries = 0  # of its own: every request is to be told apart here
        return Cluster(Connection(client.ApiClient(settings), "research"))


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(*answers: Answer) -> Server:
        server = Server(*answers)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    yield start
    for server in servers:
        server.over.set()
        server.shutdown()
        server.server_close()


def item(phase: str) -> dict[str, Any]:
    return {"metadata": {"name": "chat", "uid": "1"}, "status": {"phase": phase}}


def chunk(text: str) -> bytes:
    return f"{len(text.encode()):x}\r\n{text}\r\n".encode()


def page(phase: str) -> Answer:
    return whole({"metadata": {"resourceVersion": "7"}, "items": [item(phase)]})


def whole(content: dict[str, Any]) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        body = json.dumps(content).encode()
        request.send_response(200)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(body)))
        request.send_header("Connection", "close")
        request.end_headers()
        request.wfile.write(body)

    return answer


def stream(*pieces: str, ends: bool = False, silent: bool = False) -> Answer:
    """A stream that is cut after these, unless it ends or falls silent."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.send_header("Connection", "close")  # nothing is asked on one that is about to end
        request.end_headers()
        for piece in pieces:
            request.wfile.write(chunk(piece))
        if ends:
            request.wfile.write(b"0\r\n\r\n")
        if silent:
            request.server.over.wait(60)  # type: ignore[attr-defined] # of `Server`

    return answer


def command(*, cut: threading.Event | None = None) -> Answer:
    """Runs a command here as in a pod, until it ends or says "the end", when it is killed as the
    container ends; or until `cut`: then the connection breaks in the midst of its second line.
    """

    def answer(request: BaseHTTPRequestHandler) -> None:
        said = (request.headers["Sec-WebSocket-Key"] + WEBSOCKET).encode()
        request.send_response(101)
        request.send_header("Upgrade", "websocket")
        request.send_header("Connection", "Upgrade")
        request.send_header("Sec-WebSocket-Accept", b64encode(sha1(said).digest()).decode())
        request.end_headers()

        def send(kind: int, content: bytes) -> None:
            request.wfile.write(bytes([0x80 | kind, len(content)]) + content)

        words = parse_qs(urlsplit(request.path).query)["command"]
        with subprocess.Popen(words, stdout=PIPE, start_new_session=True) as running:
            assert running.stdout is not None
            for line in running.stdout:
                send(ABNF.OPCODE_BINARY, bytes([STDOUT_CHANNEL]) + line)
                if cut is not None:
                    cut.wait(60)
                    half = next(running.stdout)[:-3]
                    send(ABNF.OPCODE_BINARY, bytes([STDOUT_CHANNEL]) + half)
                if cut is not None or b"the end" in line:
                    os.killpg(running.pid, SIGKILL)
                    break
        if cut is None:
            code = running.returncode if running.returncode >= 0 else 128 - running.returncode
            causes = [{"reason": "ExitCode", "message": str(code)}]
            ended = {"status": "Failure", "details": {"causes": causes}}
            send(ABNF.OPCODE_BINARY, bytes([ERROR_CHANNEL]) + json.dumps(ended).encode())
            send(ABNF.OPCODE_CLOSE, b"")

    return answer


def event(kind: str, body: dict[str, Any]) -> str:
    return json.dumps({"type": kind, "object": body}) + "\n"


def status(code: int) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        request.send_header("Content-Length", "0")
        request.send_header("Connection", "close")
        request.end_headers()

    return answer


EXPIRED = event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"})
RUNNING = event("MODIFIED", item("Running"))


@pytest.mark.parametrize(
    "breaks",
    [
        pytest.param(stream(RUNNING), id="cut"),
        pytest.param(stream(RUNNING, silent=True), id="silent"),
        pytest.param(stream(RUNNING, EXPIRED, ends=True), id="too-old"),
    ],
)
def test_a_watch_that_breaks_off_goes_on_with_a_list(
    serve: Callable[..., Server], breaks: Answer
) -> None:
    server = serve(page("Pending"), breaks, page("Succeeded"))
    told: list[str] = []
    changes = server.cluster().changes(told.append, "chat", watch_seconds=1)
    assert any(bodies[0]["status"]["phase"] == "Succeeded" for bodies in changes)
    assert len(server.asked) == 3
    assert told == []


def test_an_api_server_that_is_away_is_waited_for_and_that_is_told_once(
    serve: Callable[..., Server],
) -> None:
    server = serve(page("Running"), stream(), status(503), status(503), page("Succeeded"))
    told: list[str] = []
    changes = server.cluster().changes(told.append, "chat")
    assert [next(changes)[0]["status"]["phase"] for _ in range(2)] == ["Running", "Succeeded"]
    [sentence] = told
    assert "answers 503: no reason. Try again. It is asked again for 4 minutes" in sentence


def test_an_api_server_that_never_answered_is_not_waited_for(
    serve: Callable[..., Server],
) -> None:
    server = serve(status(503))
    with pytest.raises(ClusterError, match="answers 503"):
        next(server.cluster().changes(print))
    assert len(server.asked) == 1


def test_a_watch_that_is_refused_is_told_at_once(serve: Callable[..., Server]) -> None:
    changes = serve(page("Running"), status(403)).cluster().changes(print)
    next(changes)
    with pytest.raises(ClusterError, match="Ask for that right") as refused:
        next(changes)
    assert refused.value.exit_code == 77


def test_patience_ends() -> None:
    waited: list[float] = []
    told: list[str] = []

    def ask() -> None:
        raise ClusterError("away")

    with pytest.raises(ClusterError, match="away"):
        patiently(ask, told.append, waited.append)
    assert waited == list(WAITS)
    assert len(told) == 1


def test_a_pod_is_waited_for_although_its_watch_is_cut(serve: Callable[..., Server]) -> None:
    server = serve(page("Pending"), stream(), page("Succeeded"))
    changes = server.cluster().pod_changes(print, "reader")
    assert [next(changes)["status"]["phase"] for _ in range(2)] == ["Pending", "Succeeded"]


def test_a_log_that_is_cut_goes_on_after_the_last_line_shown(
    serve: Callable[..., Server],
) -> None:
    lines = [f"2026-11-01T12:00:00.00000000{second}Z step {second}\n" for second in range(4)]
    server = serve(stream(), stream(*lines[1:3], "2026-11-01T12:00"), stream(*lines, ends=True))
    followed = server.cluster().follow_log(print, "chat-0", tail=2)
    assert list(followed) == ["step 1", "step 2", "step 3"]
    assert "tailLines=2" in server.asked[1], "nothing was shown before"
    assert "tailLines" not in server.asked[2], "more may have been written since"


def test_a_storage_is_read_on_where_the_log_of_the_pod_that_reads_it_is_cut(
    serve: Callable[..., Server],
) -> None:
    lines = [f"2026-11-01T12:00:00.00000000{second}Z step {second}\n" for second in range(3)]
    server = serve(
        whole({"metadata": {"name": "chat-reader-1"}}),
        page("Succeeded"),
        stream(*lines[:2]),
        stream(*lines, ends=True),
        whole({}),
    )
    said = read(server.cluster(), job(), ["true"], "trainer", print)
    assert list(said) == ["step 0", "step 1", "step 2"]
    assert "container=reader" in server.asked[3]


def test_what_the_kubelet_says_itself_is_shown_whole() -> None:
    lines = ["failed to watch the file", "2026-11-01T12:00:00.1Z a b"]
    assert [line for _, line in unseen(lines, "")] == ["failed to watch the file", "a b"]


@pytest.mark.parametrize(("tail", "shown"), [(None, list(range(6))), (3, [3, 4, 5])])
def test_a_ranks_file_that_is_followed_loses_and_repeats_no_line_when_cut(
    serve: Callable[..., Server], tmp_path: Path, tail: int | None, shown: list[int]
) -> None:
    log = tmp_path / "rank-1.log"
    log.write_text("".join(f"step {step}\n" for step in range(6)))

    def follow(counted: Mapping[int, int]) -> list[str]:
        sh, c, script, name, _, *rest = follow_command(job(), 1, (1,), tail, counted)
        return [sh, c, script, name, str(tmp_path), *rest]

    cut = threading.Event()
    server = serve(command(cut=cut), command(cut=cut), command())
    followed = server.cluster().follow_in(print, "chat-0", follow)
    lines = [next(followed)]
    cut.set()
    lines += islice(followed, len(shown) - 1)
    with log.open("a") as added:
        added.write("the end\n")
    lines += followed
    assert lines == [f"[rank 1] {said}" for said in (*(f"step {n}" for n in shown), "the end")]
    assert len(server.asked) == 3


def test_a_command_in_a_pod_that_fails_is_not_run_again(serve: Callable[..., Server]) -> None:
    server = serve(command())
    with pytest.raises(ClusterError, match="reading in pod chat-0 ended with exit code 3"):
        list(server.cluster().follow_in(print, "chat-0", lambda _: ["sh", "-c", "exit 3"]))
    assert len(server.asked) == 1


class CutSocket:
    """Stand-in for the client's websocket: its connection ends before the command has."""

    @staticmethod
    def is_open() -> bool:
        return False

    @staticmethod
    def read_stdout(timeout: int) -> str:
        assert timeout == 0
        return "step 1\n"

    read_stderr = staticmethod(lambda timeout: "" if timeout == 0 else None)

    @staticmethod
    def peek_channel(_: int) -> str:
        return ""

    def close(self) -> None: ...


def test_a_command_in_a_pod_that_is_cut_is_a_sentence() -> None:
    output = _output(CutSocket(), "chat-0")
    assert next(output) == b"step 1\n"
    with pytest.raises(ClusterError, match="the connection to pod chat-0 was cut"):
        next(output)
