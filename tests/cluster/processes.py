"""Starting the cluster's processes and finding them again, whatever became of their parent."""

import asyncio
import os
import secrets
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).parents[2]
OWNER = "ALIGNTUNE_CLUSTER"
"""Environment variable that marks a process with the state folder of its cluster.

A mark outlives the crash of whoever started the process and never points at another one that
was given the same id later, as a file of recorded ids can.
"""
MOST_GIVEN = 256
"""Ports that are kept from other tests; by then the first of them is long in use, or over."""
_given: deque[socket.socket] = deque()


def free_port() -> int:
    """A TCP port that nobody has, below those that the kernel gives away by itself: whoever asks
    for it later finds it still free.

    Nor is another test given it meanwhile, as this process has the UDP port of that number.
    """
    while len(_given) > MOST_GIVEN:
        _given.popleft().close()
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        mark = socket.socket(type=socket.SOCK_DGRAM)
        with socket.socket() as probe, suppress(OSError):
            mark.bind(("127.0.0.1", port))
            probe.bind(("127.0.0.1", port))
            _given.append(mark)
            return port
        mark.close()


def wait_until(
    what: str, condition: Callable[[], object], seconds: float = 60, *, pause_seconds: float = 0.05
) -> None:
    """Returns once the condition holds; after so many seconds, raises TimeoutError naming it."""
    for _ in _looks_in_vain(what, condition, seconds):
        time.sleep(pause_seconds)  # noqa: TID251 - between two looks


async def async_wait_until(
    what: str, condition: Callable[[], object], seconds: float = 60, *, pause_seconds: float = 0.01
) -> None:
    """The same, while the event loop goes on."""
    for _ in _looks_in_vain(what, condition, seconds):
        await asyncio.sleep(pause_seconds)


def _looks_in_vain(what: str, condition: Callable[[], object], seconds: float) -> Iterator[None]:
    """Ends once the condition holds.

    Raises:
        TimeoutError: It never did.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not so after {seconds:g} s.")
        yield


def output(
    *command: str | Path, stdin: str | None = None, env: Mapping[str, str] | None = None
) -> str:
    """What a program prints; CalledProcessError carries its stderr when it fails."""
    try:
        return subprocess.run(
            command, input=stdin, env=env, capture_output=True, text=True, check=True
        ).stdout
    except subprocess.CalledProcessError as error:
        error.add_note(str(error.stderr))
        raise


class Processes:
    """The processes of the cluster in one state folder; each logs to logs/NAME.log there.

    Args:
        state: The cluster's state folder.
        outlive_parent: False has the kernel kill the processes when the thread that started them
            ends, so that an interrupted test run leaves none behind.
    """

    def __init__(self, state: Path, *, outlive_parent: bool = False) -> None:
        self._state = state
        self._tie = [] if outlive_parent else ["setpriv", "--pdeathsig", "KILL", "--"]
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._commands: dict[str, tuple[str | Path, ...]] = {}

    def start(self, name: str, *command: str | Path) -> None:
        """Starts a process in the background."""
        logs = self._state / "logs"
        logs.mkdir(exist_ok=True)
        self._commands[name] = command
        with (logs / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(
                [*self._tie, *command],
                cwd=REPOSITORY,  # where `python -m tests.cluster.node` is found
                env={**os.environ, OWNER: str(self._state)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._children[name] = child

    def restart(self, name: str) -> None:
        """Kills a process that was started here, as a crash would, and starts it again."""
        child = self._children.pop(name)
        child.kill()
        child.wait()
        self.start(name, *self._commands[name])

    def wait_until(self, what: str, condition: Callable[[], bool], seconds: float = 60) -> None:
        """Like the function, but raises RuntimeError as soon as a process started here ends."""

        def holds() -> bool:
            self._check()
            return condition()

        wait_until(what, holds, seconds)

    def running(self) -> list[psutil.Process]:
        """Every live process with this cluster's mark, no matter who started it."""
        mine = str(self._state)
        return [
            process
            for process in psutil.process_iter(["name", "environ", "status"])
            if (process.info["environ"] or {}).get(OWNER) == mine
            and process.info["status"] != psutil.STATUS_ZOMBIE
        ]

    def find(self, name: str) -> psutil.Process | None:
        """The live process of that name, if there is one."""
        return next((found for found in self.running() if found.info["name"] == name), None)

    def stop(self) -> None:
        """Kills all of them: nothing in a test cluster is worth a graceful end."""
        for process in self.running():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for child in self._children.values():
            child.wait()
        self._children.clear()
        wait_until(f"no process of {self._state} runs", lambda: not self.running(), seconds=30)

    def _check(self) -> None:
        for name, child in self._children.items():
            if child.poll() is not None:
                log = self._state / "logs" / f"{name}.log"
                last = log.read_text(errors="replace").splitlines()[-5:]
                raise RuntimeError(
                    f"{name} ended with exit code {child.returncode}; the end of {log}:\n"
                    + "\n".join(last)
                )
