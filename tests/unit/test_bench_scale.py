"""Figures of the benchmark are made from what was seen, and nothing else."""

import asyncio
import json
from collections import Counter
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from aligntune_operator.session import Connection
from bench.intervals import confidence, ratio
from bench.scale import figures, requests
from bench.scale.__main__ import measurements
from bench.scale.report import write_report
from bench.scale.watcher import Streams, record, sights
from bench.sections import REPORT, publish

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


def test_calls_of_webhooks_are_told_by_name_whatever_became_of_them() -> None:
    series = "apiserver_admission_webhook_request_total"
    called = f"""
{series}{{code="200",name="pod.example",operation="CREATE",rejected="false",type="admit"}} 7
{series}{{code="400",name="pod.example",operation="CREATE",rejected="true",type="admit"}} 2
"""
    assert requests.counted(called) == {"webhook pod.example": 9}


def test_what_an_object_takes_in_etcd_is_told_of_resources_that_have_any() -> None:
    series = "apiserver_resource"
    told = f"""
{series}_objects{{group="batch",resource="jobs"}} 5
{series}_objects{{group="batch",resource="cronjobs"}} 0
{series}_size_estimate_bytes{{group="batch",resource="cronjobs"}} 0
{series}_size_estimate_bytes{{group="batch",resource="jobs"}} 1.1e+04
"""
    assert requests.stored(told) == {"jobs": 2200}


def test_the_audit_log_tells_who_asked_for_what_without_what_goes_with_time() -> None:
    def asked(agent: str, verb: str, resource: str, subresource: str = "") -> str:
        reference = {"resource": resource} | ({"subresource": subresource} if subresource else {})
        return json.dumps({"userAgent": agent, "verb": verb, "objectRef": reference})

    lines = [
        asked("aligntune-operator/3.11 aiohttp/3.14", "create", "jobs"),
        asked("jobset/v0.0.0 (linux/amd64) abcd012", "update", "jobsets", "status"),
        asked("jobset/v0.0.0 (linux/amd64) abcd012", "update", "jobsets", "status"),
        asked("kube-scheduler/v1.35.4 (linux/amd64) kubernetes/-/leader", "update", "leases"),
        json.dumps({"userAgent": "kubectl/v1.35.4", "verb": "get", "requestURI": "/metrics"}),
    ]
    assert requests.by_client("\n".join(lines)) == {
        "operator: create jobs": 1,
        "jobset: update jobsets/status": 2,
    }


def test_who_comes_first_changes_with_each_run_and_what_is_audited_runs_once() -> None:
    names = [name for name, _ in measurements(["single", "requests"], 2, 0.1)]
    assert names == [
        "single.AlignTuneJob.0",
        "single.TrainJob.0",
        "requests.AlignTuneJob.0",
        "requests.Job.0",
        "requests.TrainJob.0",
        "single.TrainJob.1",
        "single.AlignTuneJob.1",
    ]


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


def test_a_mean_has_the_interval_of_as_few_values_as_there_are() -> None:
    assert confidence([2.0]) == "2.000", "one value has none"
    # The t distribution's 97.5% quantile for two degrees of freedom is 4.303.
    assert confidence([1.0, 2.0, 3.0]) == "2.000 (-0.484 to 4.484)"
    assert ratio([1.0, 3.0], [2.0, 2.0]) == "1.000 (-5.353 to 7.353)"


def test_what_a_measurement_publishes_stands_in_the_report_and_its_raw_data_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    publish("steps-sft", "Cost of a step", ["| a | b |", "|---|---|"], {"a": [1.5]}, load=0.25)
    report = write_report(REPORT).read_text()
    assert "## Cost of a step\n\nLoad 0.2 before and " in report
    assert report.endswith("after.\n\n| a | b |\n|---|---|\n")
    kept = json.loads((REPORT / "sections" / "steps-sft.json").read_text())
    assert kept["results"] == {"a": [1.5]}
    assert kept["load"][0] == 0.25
    assert "trl" in kept["versions"]


def test_a_line_counts_as_seen_when_its_last_byte_came(tmp_path: Path) -> None:
    events = [{"type": "ADDED", "object": {"number": number}} for number in range(3)]
    text = b"".join(json.dumps(event).encode() + b"\n" for event in events)
    length = len(text) // 3
    (tmp_path / "jobs.lines").write_bytes(text[:-1])
    pieces = [(1.0, length - 5), (2.0, 5 + length), (3.0, length - 1)]
    (tmp_path / "jobs.times").write_text("".join(f"{at} {size}\n" for at, size in pieces))
    seen = [(sight.at, sight.body["number"]) for sight in sights(tmp_path, "jobs")]
    assert seen == [(2.0, 0), (2.0, 1)], "the third was cut off"


async def test_a_watch_that_the_api_server_ends_goes_on_after_what_was_seen(tmp_path: Path) -> None:
    lines = {
        "1": b'{"type":"ADDED","object":{"metadata":{"name":"a","resourceVersion":"7"}}}\n',
        "7": b'{"type":"MODIFIED","object":{"metadata":{"name":"a","resourceVersion":"9"}}}\n',
    }
    over = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        if "watch" not in request.query:
            return web.json_response({"metadata": {"resourceVersion": "1"}})
        since = request.query["resourceVersion"]
        if since not in lines:
            over.set()
        return web.Response(body=lines.get(since, b""))

    app = web.Application()
    app.router.add_get("/jobs", answer)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        url = str(server.make_url("")).rstrip("/")
        connection = Connection(session, session, session, url, in_cluster=False)
        streams = Streams(str(tmp_path), {"jobs": "jobs"}, "jobs", "-", 1)
        watching = asyncio.create_task(record(connection, "jobs", streams))
        async with asyncio.timeout(60):
            await over.wait()
        watching.cancel()
        await asyncio.wait([watching])
    assert [sight.kind for sight in sights(tmp_path, "jobs")] == ["ADDED", "MODIFIED"]
