"""Where logs are looked for, what is read there, and what becomes of the numbers."""

import io
import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from aligntune.api.names import base_name, job_name
from aligntune.api.status import AlignTuneJobStatus
from aligntune.cluster.curves import chosen, curves, draw, sparkline
from aligntune.cluster.errors import ClusterError, refusal
from aligntune.cluster.job import Job
from aligntune.cluster.live import follow
from aligntune.cluster.logs import (
    ContainerLog,
    InPod,
    OnStorage,
    Place,
    attempt_of,
    places,
    pods_of,
)
from aligntune.cluster.reader import curve_command, log_command, reader_pod
from aligntune.cluster.stored import merged
from aligntune.core.errors import ConfigError

UID = "0b2c5a52"
CREATED = datetime(2026, 11, 1, 12, tzinfo=UTC)


def job(*, attempts: int = 1, storage: dict[str, Any] | None = None, **runtime: Any) -> Job:
    spec = {"runtime": runtime, "storage": storage or {"claimName": "models"}}
    status = AlignTuneJobStatus.parse({"attempts": {"current": attempts}})
    return Job("chat", "research", UID, CREATED, spec, status)


def pod(name: str, index: int, attempt: int = 1, uid: str = UID, **status: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "creationTimestamp": f"2026-11-01T12:00:0{len(name)}Z",
            "labels": {"batch.kubernetes.io/job-completion-index": str(index)},
            "ownerReferences": [{"name": job_name("chat", uid, attempt)}],
        },
        "status": {"phase": "Running"} | status,
    }


def test_a_pod_that_nobody_owns_is_none_of_the_jobs() -> None:
    """Whoever may create pods may give one the label by which they are found."""
    orphan = pod("a", 0)
    del orphan["metadata"]["ownerReferences"]
    assert pods_of(job(), 1, [orphan]) == {}


def test_only_the_newest_pods_of_this_attempt_of_this_job_count() -> None:
    seen = [
        pod("a", 0),
        pod("bb", 0),
        pod("c", 0, attempt=2),
        pod("d", 0, uid="of another job of this name"),
        pod("e", 1),
    ]
    found = pods_of(job(), 1, seen)
    assert {index: body["metadata"]["name"] for index, body in found.items()} == {0: "bb", 1: "e"}


@pytest.mark.parametrize(
    ("ranks", "pods", "expected"),
    [
        ((), {}, [OnStorage((0, 1, 2, 3))]),
        (
            (),
            {0: pod("a", 0), 1: pod("b", 1)},
            [ContainerLog("a"), InPod("a", (1,)), ContainerLog("b"), InPod("b", (3,))],
        ),
        ((3,), {0: pod("a", 0), 1: pod("b", 1)}, [InPod("b", (3,))]),
        ((2,), {0: pod("a", 0), 1: pod("b", 1)}, [ContainerLog("b")]),
        (
            (),
            {0: pod("a", 0, phase="Failed")},
            [ContainerLog("a"), OnStorage((1, 2, 3))],
        ),
    ],
)
def test_every_rank_is_looked_for_where_its_log_is(
    ranks: tuple[int, ...], pods: dict[int, Any], expected: list[Place]
) -> None:
    assert places(job(nodes=2, gpusPerNode=2), ranks, pods) == expected


def test_the_storage_is_read_on_request_although_pods_are_there() -> None:
    assert places(job(), (), {0: pod("a", 0)}, from_storage=True) == [OnStorage((0,))]


def test_logs_that_nobody_has_any_more_are_one_sentence() -> None:
    with pytest.raises(ClusterError, match="rank 0 are gone with the pod"):
        places(job(storage={"ephemeral": True}), (), {})
    with pytest.raises(ClusterError, match="has not started, so it has printed nothing"):
        places(job(), (), {0: pod("a", 0, phase="Pending")})
    with pytest.raises(ClusterError, match="chat has the ranks 0 to 0"):
        places(job(), (1,), {})


@pytest.mark.parametrize(
    ("attempts", "wanted", "previous", "expected"),
    [(3, None, False, 3), (3, None, True, 2), (3, 1, False, 1)],
)
def test_an_attempt_is_the_newest_unless_another_is_named(
    attempts: int, wanted: int | None, previous: bool, expected: int
) -> None:
    assert attempt_of(job(attempts=attempts), wanted, previous=previous) == expected


def test_an_attempt_that_has_not_been_is_one_sentence() -> None:
    with pytest.raises(ClusterError, match="has had 1 attempt, and no number 0"):
        attempt_of(job(), None, previous=True)
    with pytest.raises(ClusterError, match="has had no attempt yet"):
        attempt_of(job(attempts=0), None, previous=False)


def run_here(command: list[str], storage: Path) -> list[str]:
    """Runs a reader's command on this machine's shell, a folder in place of the mounted claim."""
    there = [word.replace("/aligntune/storage", str(storage)) for word in command]
    done = subprocess.run(there, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    folder = tmp_path / base_name("chat", UID)
    (folder / "attempt-2").mkdir(parents=True)
    (folder / "attempt-2" / "rank-0.log").write_text("one\ntwo\nthree\n")
    (folder / "attempt-2" / "rank-1.log").write_text("eins\n")
    return tmp_path


def test_stored_logs_are_told_apart_as_the_launcher_does(storage: Path) -> None:
    read = log_command(job(), 2, (0, 1, 7), tail=2, prefixed=True)
    assert run_here(read, storage)[:3] == ["[rank 0] two", "[rank 0] three", "[rank 1] eins"]
    assert run_here(read, storage)[3].startswith("[rank 7] no rank-7.log in ")
    read = log_command(job(), 2, (0,), tail=None, prefixed=False)
    assert run_here(read, storage) == ["one", "two", "three"]


def test_of_a_huge_log_the_end_is_read_and_that_is_said(storage: Path) -> None:
    log = next(storage.glob("*/attempt-2/rank-0.log"))
    log.write_text("x" * 99 + "\n" + ("y" * 99 + "\n") * 90_000)
    read = log_command(job(), 2, (0,), tail=None, prefixed=False)
    lines = run_here(read, storage)
    assert lines[0] == "... the last 8388608 bytes:"
    assert len(lines) < 90_000
    assert set(lines[2:]) == {"y" * 99}


def test_curves_come_from_both_files_and_half_lines_are_passed_over(storage: Path) -> None:
    folder = next(path for path in storage.iterdir() if path.is_dir())
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n')
    (folder / "measured.jsonl").write_text('{"step": 2, "rewardMean": 0.5}\n{"step": 3, "rew')
    found = curves(run_here(curve_command(job()), storage))
    assert found == {"loss": [(1, 2.0), (2, 1.5)], "rewardMean": [(2, 0.5)]}
    assert list(chosen(found, (), "chat")) == ["loss", "rewardMean"]
    with pytest.raises(ConfigError, match="no 'kl' here; there are: loss, rewardMean"):
        chosen(found, ["kl"], "chat")
    with pytest.raises(ClusterError, match="has made no step yet"):
        chosen({}, (), "chat")


def test_a_picture_is_drawn_and_an_unknown_format_is_one_sentence(tmp_path: Path) -> None:
    found = {"loss": [(1, 2.0), (2, 1.5)], "kl": [(2, 0.1)]}
    draw(found, "chat", tmp_path / "chat.svg")
    assert "<svg" in (tmp_path / "chat.svg").read_text()
    with pytest.raises(ConfigError, match=r"chat.xyz: Format 'xyz' is not supported"):
        draw(found, "chat", tmp_path / "chat.xyz")
    with pytest.raises(ConfigError, match="No such file or directory"):
        draw(found, "chat", tmp_path / "absent" / "chat.png")


def test_the_reader_writes_nothing_and_is_no_pod_that_trains() -> None:
    one = job(imagePullSecrets=[{"name": "registry"}], nodeSelector={"gpu": "yes"})
    body = reader_pod(one, "models", "trainer", ["true"])
    spec = body["spec"]
    assert spec["volumes"][0]["persistentVolumeClaim"] == {"claimName": "models", "readOnly": True}
    assert spec["containers"][0]["volumeMounts"][0]["readOnly"] is True
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert spec["nodeSelector"] == {"gpu": "yes"}
    assert "aligntune.io/job-name" not in body["metadata"]["labels"]
    assert body["metadata"]["ownerReferences"][0]["uid"] == UID


@pytest.mark.parametrize(
    ("own", "ran", "known"),
    [
        ("own", ["default"], "own"),
        ("", ["default", "newer default"], "newer default"),
        ("", [None], None),
        ("", [], None),
    ],
)
def test_the_image_of_a_job_is_its_own_or_what_its_newest_attempt_ran(
    own: str, ran: list[str | None], known: str | None
) -> None:
    history = [{"attempt": n, "job": "j", "image": image} for n, image in enumerate(ran, 1)]
    status = AlignTuneJobStatus.parse({"attempts": {"history": history}})
    assert job(image=own)._replace(status=status).image == known


def test_a_section_that_is_left_empty_is_none() -> None:
    empty = job()._replace(spec={"storage": None, "runtime": None})
    assert (empty.claim, empty.image) == (None, None)
    assert empty.output_folder.startswith("chat-")


def test_merged_sources_end_together_and_the_first_error_is_told() -> None:
    assert sorted(merged([iter("ab"), iter("cd")])) == ["a", "b", "c", "d"]

    def broken() -> Any:
        yield "a"
        raise ClusterError("gone")

    with pytest.raises(ClusterError, match="gone"):
        list(merged([broken()]))


def seen(step: int, loss: float, phase: str = "Running") -> list[dict[str, Any]]:
    metadata = {
        "name": "chat",
        "namespace": "research",
        "uid": UID,
        "creationTimestamp": "2026-11-01T12:00:00Z",
    }
    status = {
        "phase": phase,
        "summary": {"progress": f"{step}/3", "loss": str(loss)},
        "progress": {"step": step, "totalSteps": 3},
        "metrics": {"loss": loss},
    }
    return [{"metadata": metadata, "status": status}]


def test_a_live_table_draws_the_losses_seen_and_ends_with_the_job() -> None:
    changes = [seen(1, 3.0), seen(1, 3.0), seen(2, 2.0), seen(3, 1.0, "Succeeded"), seen(9, 9.0)]
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=160)
    ended = follow(iter(changes), "chat", lambda: CREATED, console)
    assert ended.status.phase == "Succeeded"
    assert "█▅▁" in screen.getvalue()


def test_off_a_terminal_each_change_is_a_line() -> None:
    out = io.StringIO()
    changes = [seen(1, 3.0), seen(1, 3.0), seen(3, 1.0, "Failed")]
    follow(iter(changes), "chat", lambda: CREATED, Console(file=out, width=40))
    assert out.getvalue() == "chat: Running 1/3 loss 3.0\nchat: Failed 3/3 loss 1.0\n"
    with pytest.raises(ClusterError, match="chat is not there"):
        follow(iter([[]]), "chat", lambda: CREATED, Console(file=out))


def test_a_sparkline_goes_from_its_least_to_its_greatest() -> None:
    assert sparkline([3.0, 2.0, 1.0], 30) == "█▅▁"
    assert sparkline([9.0, 1.0, 1.0], 2) == "▁▁"
    assert sparkline([], 30) == ""


@pytest.mark.parametrize(
    ("status", "message", "code", "told"),
    [
        (404, None, 66, "knows no aligntunejobs: install the operator"),
        (403, "cannot list", 77, "cannot list. Ask for that right"),
        (409, 'conflict with "kubectl": .spec', 78, "--force-conflicts takes over"),
        (500, ".a: field not declared in schema", 78, ".a: field not declared in schema"),
        (503, "busy\nnow", 75, "answers 503: busy now. Try again"),
        (502, None, 75, "answers 502: no reason. Try again"),
    ],
)
def test_refusals_are_sentences_with_exit_codes(
    status: int, message: str | None, code: int, told: str
) -> None:
    body = json.dumps({"kind": "Status", "message": message}) if message else "404 page not found"
    error = refusal("https://server", status, body)
    assert told in str(error)
    assert error.exit_code == code
