"""A process that only notes when the API server told of a change; what it told is read afterwards.

    python -m bench.scale.watcher STREAMS

STREAMS is `Streams` as JSON. It prints `ready` for each stream that it watches, and `done` once all
objects are. Nothing is parsed while others are being measured.
"""

import asyncio
import itertools
import json
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from aligntune_operator.handlers import kopf_settings
from aligntune_operator.session import Connection, connect
from bench.scale.requests import CLIENT

VERSION = re.compile(rb'"resourceVersion":"([^"]+)"')
NAME = re.compile(rb'"name":"([^"]+)"')


class Streams(NamedTuple):
    """What to watch, and until when."""

    folder: str
    paths: dict[str, str]
    """Name of a stream -> path below the API server's URL."""
    done_in: str
    """The stream that shows that an object is done."""
    done: str
    """What a line of that stream holds then."""
    objects: int


class Sight(NamedTuple):
    """One line of a watch, and when its last byte came (CLOCK_MONOTONIC, seconds)."""

    at: float
    kind: str
    body: dict[str, Any]


async def record(connection: Connection, name: str, streams: Streams) -> None:
    """Writes a stream into a file, and into another when each of its pieces came."""
    done: set[bytes] = set()
    marker, rest = streams.done.encode(), b""
    folder = Path(streams.folder)
    url = f"{connection.server}/{streams.paths[name]}"
    async with connection.session.get(url, params={"limit": "1"}) as answer:
        version = (await answer.json())["metadata"]["resourceVersion"]
    with (
        (folder / f"{name}.lines").open("wb") as lines,
        (folder / f"{name}.times").open("w") as times,
    ):
        # The API server ends a watch whose reader is slow, as any is on a busy machine.
        for number in itertools.count():
            since = {"watch": "true", "resourceVersion": version}
            async with connection.watches.get(url, params=since, timeout=None) as answer:
                if number == 0:
                    print("ready", flush=True)
                async for piece in answer.content.iter_any():
                    times.write(f"{time.monotonic():.6f} {len(piece)}\n")
                    lines.write(piece)
                    *whole, rest = (rest + piece).split(b"\n")
                    if whole:
                        version = VERSION.search(whole[-1])[1].decode()  # type: ignore[index] # every object has one
                    if name == streams.done_in:
                        done.update(NAME.search(line)[1] for line in whole if marker in line)  # type: ignore[index] # and a name
                        if len(done) >= streams.objects:
                            print("done", flush=True)


def sights(folder: Path, name: str) -> Iterator[Sight]:
    """What a stream told, line by line."""
    arrivals = (
        (float(at), int(size)) for at, size in map(str.split, (folder / f"{name}.times").open())
    )
    at, received, read = 0.0, 0, 0
    with (folder / f"{name}.lines").open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                return
            read += len(line)
            while received < read:
                at, size = next(arrivals)
                received += size
            event = json.loads(line)
            yield Sight(at, event["type"], event["object"])


async def watch(streams: Streams) -> None:
    """Until SIGTERM; then everything is written."""
    connection = connect(kopf_settings())
    connection.session.headers["User-Agent"] = CLIENT
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(record(connection, name, streams)) for name in streams.paths]

        def stop() -> None:
            for task in tasks:
                task.cancel()

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    await connection.close()


if __name__ == "__main__":
    asyncio.run(watch(Streams(**json.loads(sys.argv[1]))))
