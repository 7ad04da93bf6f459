"""Figures of the benchmark are made from what was seen, and nothing else."""

import json
from collections import Counter
from pathlib import Path

import pytest

from bench.scale import figures, requests
from bench.scale.watcher import sights

METRICS = """
apiserver_request_total{code="201",resource="jobs",subresource="",verb="POST"} 40
apiserver_request_total{code="409",resource="jobs",subresource="",verb="POST"} 10
apiserver_request_total{code="200",resource="jobs",subresource="status",verb="PUT"} 100
apiserver_request_total{code="200",resource="jobs",subresource="",verb="WATCH"} 7
apiserver_request_total{code="200",resource="leases",subresource="",verb="PUT"} 99
apiserver_request_total{code="200",resource="",subresource="/readyz",verb="GET"} 5
"""


def test_requests_are_told_by_verb_and_resource_without_those_that_go_with_time() -> None:
    found = requests.counted(METRICS)
    assert found == {"POST jobs": 50, "PUT jobs/status": 100}
    told = requests.per_object(Counter({"POST jobs": 10, "PUT jobs/status": 99}), found, 100)
    assert told == {"POST jobs": 0.4}


@pytest.mark.parametrize(("percent", "value"), [(50, 5), (95, 10), (99, 10), (10, 1)])
def test_a_percentile_is_a_value_that_was_seen(percent: int, value: float) -> None:
    assert figures.percentile([10, 9, 8, 7, 6, 5, 4, 3, 2, 1], percent) == value


def test_a_wait_is_of_objects_that_got_so_far_and_never_below_nothing() -> None:
    timeline = {
        "a": {"created": 1.0, "job": 3.0},
        "b": {"created": 2.0, "job": 1.9},
        "c": {"created": 2.0},
    }
    assert figures.latencies(timeline, "created", "job") == [2.0, 0.0]


def test_a_rate_ends_with_the_last_object() -> None:
    timeline = {"a": {"job": 11.0}, "b": {"job": 14.0}}
    assert figures.rate(timeline, "job", 10.0) == 0.5


def test_a_line_counts_as_seen_when_its_last_byte_came(tmp_path: Path) -> None:
    events = [{"type": "ADDED", "object": {"number": number}} for number in range(3)]
    text = b"".join(json.dumps(event).encode() + b"\n" for event in events)
    length = len(text) // 3
    (tmp_path / "jobs.lines").write_bytes(text[:-1])
    pieces = [(1.0, length - 5), (2.0, 5 + length), (3.0, length - 1)]
    (tmp_path / "jobs.times").write_text("".join(f"{at} {size}\n" for at, size in pieces))
    seen = [(sight.at, sight.body["number"]) for sight in sights(tmp_path, "jobs")]
    assert seen == [(2.0, 0), (2.0, 1)], "the third was cut off"
