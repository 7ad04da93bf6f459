"""`aligntune` against a real API server: what people type, what they read, what it exits with."""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from aligntune.cli import main
from aligntune.cluster.client import Cluster
from aligntune.cluster.connection import connect
from aligntune.cluster.job import Job
from aligntune.cluster.reader import curve_command, reader_pod
from tests.cluster.binaries import binary
from tests.cluster.control_plane import ControlPlane
from tests.cluster.processes import REPOSITORY
from tests.integration.conftest import Api

Make = Callable[..., dict[str, Any]]


class Tool:
    """`aligntune` with a kubeconfig, in one namespace; in this process, which starts only once."""

    def __init__(self, kubeconfig: Path, namespace: str, environment: pytest.MonkeyPatch) -> None:
        self.kubeconfig = kubeconfig
        self.namespace = namespace
        self._environment = environment
        environment.setenv("KUBECONFIG", str(kubeconfig))
        self.columns(160)

    def columns(self, number: int) -> None:
        """Sets the width of its terminal."""
        self._environment.setenv("COLUMNS", str(number))

    def __call__(self, command: str, *arguments: str | Path) -> str:
        """What it prints; it must succeed."""
        code, out, err = self.run(command, *arguments)
        assert code == 0, err
        return out

    def refusal(self, command: str, *arguments: str | Path) -> tuple[int, str]:
        """Exit code and the one sentence that it says where it cannot."""
        code, out, err = self.run(command, *arguments)
        assert code != 0, out
        assert len(err.splitlines()) == 1, err
        return code, err

    def run(self, command: str, *arguments: str | Path, stdin: str = "") -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        words = ["aligntune", command, "-n", self.namespace, *map(str, arguments)]
        self._environment.setattr(sys, "argv", words)
        self._environment.setattr(sys, "stdin", io.StringIO(stdin))
        out, err = io.StringIO(), io.StringIO()
        with (
            pytest.raises(SystemExit) as ended,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            main()
        return int(ended.value.code or 0), out.getvalue(), err.getvalue()


@pytest.fixture
def tool(control_plane: ControlPlane, api: Api, monkeypatch: pytest.MonkeyPatch) -> Tool:
    return Tool(control_plane.kubeconfig, api.namespace, monkeypatch)


def written(folder: Path, *manifests: dict[str, Any]) -> Path:
    file = folder / "jobs.yaml"
    with file.open("w") as out:
        YAML().dump_all(manifests, out)
    return file


def golden_status(case: str) -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe").load(
        REPOSITORY / "tests" / "golden" / case / "status.yaml"
    )
    return found


def tell(api: Api, name: str, status: dict[str, Any]) -> None:
    """Stand-in for the operator: writes a status."""
    patch = json.dumps({"status": status}, default=str)
    api("patch", "atj", name, "--subresource=status", "--type=merge", "-p", patch)


def test_submitting_creates_and_updates_and_owns_what_it_sets(
    tool: Tool, api: Api, manifest: Make, tmp_path: Path
) -> None:
    first = manifest("chat")
    first["metadata"]["labels"] = {"team": "nlp"}
    others = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "passed-over"}}
    file = written(tmp_path, first, others)
    assert tool("submit", file, "--dry-run") == f"chat: would be accepted in {api.namespace}\n"
    assert api.every("atj") == []
    assert tool("submit", file) == f"chat: submitted to {api.namespace}\n"
    assert api.get("atj", "chat")["metadata"]["labels"] == {"team": "nlp"}
    file.write_text(file.read_text().replace("nlp", "speech"))
    body = json.loads(tool("submit", file, "-o", "json"))
    assert body["metadata"]["labels"] == {"team": "speech"}
    assert "managedFields" not in body["metadata"]


def test_a_job_that_is_over_is_not_said_to_run_again(
    tool: Tool, api: Api, manifest: Make, tmp_path: Path
) -> None:
    api.apply(manifest("chat"))
    tell(api, "chat", golden_status("succeeded"))
    told = tool("submit", written(tmp_path, manifest("chat")))
    assert "has succeeded and does not run again: delete it first" in told


def test_what_is_wrong_is_told_before_and_by_the_api_server(
    tool: Tool, api: Api, manifest: Make, tmp_path: Path
) -> None:
    file = written(tmp_path, manifest("chat", sft={"modle": {}}))
    code, _, told = tool.run("submit", file)
    assert code == 78
    assert f"{file}:7: spec.sft.modle: unknown field; did you mean 'model'?" in told
    first = manifest("chat")
    first["metadata"]["lables"] = {"team": "nlp"}
    code, told = tool.refusal("submit", written(tmp_path, first))
    assert code == 78, told
    assert "metadata.lables" in told
    assert api.every("atj") == []


def test_fields_that_others_have_set_are_taken_over_only_on_request(
    tool: Tool, api: Api, manifest: Make, tmp_path: Path
) -> None:
    api.apply(manifest("chat", policy={"maxRestarts": 5}))
    file = written(tmp_path, manifest("chat", policy={"maxRestarts": 1}))
    code, told = tool.refusal("submit", file)
    assert code == 78
    assert "spec.policy.maxRestarts" in told
    assert "--force-conflicts takes over" in told
    tool("submit", file, "--force-conflicts")
    assert api.get("atj", "chat")["spec"]["policy"]["maxRestarts"] == 1


def test_a_job_of_bottomless_depth_hides_no_other(tool: Tool, api: Api, manifest: Make) -> None:
    api.create_deep(manifest("deep", runtime={"gpusPerNode": 0, "affinity": "HERE"}))
    api.apply(manifest("chat"))
    assert [line.split()[0] for line in tool("list").splitlines()[1:]] == ["chat", "deep"]
    assert "deep" in tool("status", "deep")
    assert '"name": "deep"' in tool("status", "deep", "-o", "json")


def test_listing_shows_kubectls_columns_for_a_namespace_or_for_all(
    tool: Tool, api: Api, manifest: Make
) -> None:
    code, _, told = tool.run("list")
    assert (code, told) == (0, f"no AlignTuneJobs in namespace {api.namespace}\n")
    api.apply(manifest("chat"), manifest("judge"))
    tell(api, "chat", golden_status("running"))
    tool.columns(20)  # a narrow terminal cuts no name
    lines = [line.split() for line in tool("list").splitlines()]
    by_kubectl = [line.split() for line in api("get", "atj").splitlines()]
    assert lines[0] == by_kubectl[0]
    assert lines[1][:9] == by_kubectl[1][:9]
    assert lines[2][0] == "judge"
    assert any(
        line.split()[:2] == [api.namespace, "judge"] for line in tool("list", "-A").splitlines()
    )
    found = json.loads(tool("list", "-o", "json"))
    assert [item["metadata"]["name"] for item in found["items"]] == ["chat", "judge"]
    assert YAML(typ="safe").load(tool("list", "-l", "team=none", "-o", "yaml"))["items"] == []


def test_a_status_page_tells_causes_and_attempts(tool: Tool, api: Api, manifest: Make) -> None:
    api.apply(manifest("chat"))
    tell(api, "chat", golden_status("restarts-used-up"))
    page = tool("status", "chat")
    for told in ("Failed", "OutOfMemory (exit code 75", "steps 0 to 3", "step 100,"):
        assert told in page
    body = YAML(typ="safe").load(tool("status", "chat", "-o", "yaml"))
    assert body["status"]["failure"]["reason"] == "OutOfMemory"


def test_suspending_and_resuming_set_the_one_field(tool: Tool, api: Api, manifest: Make) -> None:
    api.apply(manifest("chat"))
    assert tool("suspend", "chat") == "chat: saves a checkpoint and stops\n"
    assert api.get("atj", "chat")["spec"]["suspend"] is True
    assert tool("resume", "chat") == "chat: may run\n"
    assert api.get("atj", "chat")["spec"]["suspend"] is False
    tell(api, "chat", golden_status("succeeded"))
    assert "it is over already (Succeeded)" in tool("suspend", "chat")


def test_deleting_asks_and_says_what_stays(tool: Tool, api: Api, manifest: Make) -> None:
    api.apply(manifest("chat"), manifest("scratch", storage={"ephemeral": True}))
    code, _, told = tool.run("delete", "chat", "scratch", stdin="n\n")
    assert code == 1
    assert "in claim models stays" in told
    assert "its checkpoints go with it" in told
    assert len(api.every("atj")) == 2
    tool("delete", "chat", "scratch", "--yes")
    assert api.every("atj") == []


@pytest.mark.usefixtures("tool")  # its kubeconfig
@pytest.mark.parametrize(("case", "code"), [("succeeded", 0), ("restarts-used-up", 75)])
def test_watching_one_job_ends_with_it_and_with_its_exit_code(
    api: Api, manifest: Make, case: str, code: int
) -> None:
    api.apply(manifest("chat"))
    tell(api, "chat", golden_status("running"))
    watching = subprocess.Popen(
        [sys.executable, "-m", "aligntune", "watch", "chat", "-n", api.namespace],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    assert watching.stdout.readline() == "chat: Running 120/400 loss 1.917 eta 1h30m\n"
    tell(api, "chat", golden_status(case))
    out, err = watching.communicate(timeout=60)
    assert watching.returncode == code, err
    assert out.splitlines()[-1].startswith(f"chat: {golden_status(case)['phase']}")


def test_every_submitted_job_is_watched_although_one_before_it_failed(
    tool: Tool, api: Api, manifest: Make, tmp_path: Path
) -> None:
    jobs = [manifest("first"), manifest("second")]
    api.apply(*jobs)
    tell(api, "first", golden_status("restarts-used-up"))
    tell(api, "second", golden_status("succeeded"))
    code, out, _ = tool.run("submit", "--watch", written(tmp_path, *jobs))
    assert code == 75
    assert [line.split()[:2] for line in out.splitlines()] == [
        ["first:", "Failed"],
        ["second:", "Succeeded"],
    ]


@pytest.mark.usefixtures("operator")
def test_a_pod_that_has_not_started_has_no_log_and_that_is_said(
    tool: Tool, api: Api, manifest: Make
) -> None:
    api.apply(manifest("chat"))
    api.pod_of("chat")
    api.until("recorded", lambda: api.status("chat").get("attempts", {}).get("current") == 1)
    code, told = tool.refusal("logs", "chat")
    assert code == 75
    assert "has not started, so it has printed nothing" in told
    assert tool.refusal("logs", "chat", "--previous")[0] == 66
    assert "has the ranks 0 to 0" in tool.refusal("logs", "chat", "--rank", "3")[1]


@pytest.mark.usefixtures("operator")
def test_the_image_that_an_attempt_runs_is_known_without_its_pods(api: Api, manifest: Make) -> None:
    api.apply(manifest("chat"))
    image = api.pod_of("chat")["spec"]["containers"][0]["image"]
    api.until("recorded", lambda: api.status("chat").get("attempts", {}).get("current") == 1)
    assert Job.of(api.get("atj", "chat")).image == image


@pytest.mark.usefixtures("tool")  # its kubeconfig
def test_a_pod_that_reads_the_storage_meets_the_restricted_standard_and_is_followed_and_removed(
    api: Api, manifest: Make
) -> None:
    label = "pod-security.kubernetes.io/enforce=restricted"
    api("label", "namespace", api.namespace, label)
    api.apply(manifest("chat"))
    cluster = Cluster(connect(None, None, api.namespace))
    job = Job.of(cluster.get("chat"))
    name = cluster.create_pod(reader_pod(job, "models", "trainer", curve_command(job)))
    changes = cluster.pod_changes(print, name)
    assert next(changes)["status"]["phase"] == "Pending"
    api.play_kubelet(api.get("pod", name), terminated={"exitCode": 0, "reason": "Completed"})
    assert next(changes)["status"]["phase"] == "Succeeded"
    cluster.delete_pod(name)
    assert api.every("pods") == []


def test_what_is_not_there_is_one_sentence(
    tool: Tool, api: Api, manifest: Make, tmp_path: Path
) -> None:
    code, told = tool.refusal("status", "absent")
    assert code == 66
    assert '"absent" not found' in told
    api.apply(manifest("chat"))
    assert "has had no attempt yet" in tool.refusal("logs", "chat")[1]
    code, told = tool.refusal("list", "--context", "moon")
    assert code == 78
    assert "no 'moon' in" in told
    code, told = tool.refusal("list", "--kubeconfig", tmp_path / "none")
    assert code == 78
    assert "is not there. Name a kubeconfig" in told


def kubeconfig_with(tool: Tool, folder: Path, **changes: Any) -> Path:
    """The kubeconfig with another server or user."""
    config = YAML(typ="safe").load(tool.kubeconfig)
    config["clusters"][0]["cluster"].update(changes.get("cluster", {}))
    if "user" in changes:
        config["users"][0]["user"] = changes["user"]
    file = folder / "kubeconfig"
    with file.open("w") as out:
        YAML().dump(config, out)
    return file


def test_a_cluster_that_cannot_be_reached_is_named(tool: Tool, tmp_path: Path) -> None:
    away = kubeconfig_with(tool, tmp_path, cluster={"server": "https://127.0.0.1:1"})
    code, told = tool.refusal("list", "--kubeconfig", away)
    assert code == 75
    assert "https://127.0.0.1:1 cannot be reached (connection refused)" in told


def test_who_may_not_is_told_which_right_is_missing(
    tool: Tool, api: Api, manifest: Make, tmp_path: Path
) -> None:
    api.apply(manifest("chat"))
    token = api("create", "token", "default").strip()
    file = kubeconfig_with(tool, tmp_path, user={"token": token})
    code, told = tool.refusal("suspend", "chat", "--kubeconfig", file)
    assert code == 77
    assert 'cannot patch resource "aligntunejobs"' in told
    file = kubeconfig_with(tool, tmp_path, user={"token": "wrong"})
    code, told = tool.refusal("list", "--kubeconfig", file)
    assert code == 77
    assert "does not take your credentials" in told


def test_a_cluster_without_the_crd_is_told_what_to_install(tool: Tool, tmp_path: Path) -> None:
    with ControlPlane(tmp_path / "state") as bare:
        code, told = tool.refusal("list", "--kubeconfig", bare.kubeconfig)
    assert code == 66
    assert "knows no aligntunejobs: install the operator there" in told


@pytest.mark.usefixtures("tool")  # its kubeconfig
def test_kubectl_finds_the_plugin_and_completes_names(api: Api, manifest: Make) -> None:
    api.apply(manifest("chat"), manifest("judge"))
    api.create_deep(manifest("deep", runtime={"gpusPerNode": 0, "affinity": "HERE"}))
    bin_folder = Path(sys.executable).parent
    env = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}

    def kubectl(*arguments: str) -> str:
        return subprocess.run(
            [binary("kubectl"), *arguments],
            check=True, capture_output=True, text=True, env=env,
        ).stdout  # fmt: skip

    assert "chat" in kubectl("aligntune", "list", "-n", api.namespace)
    assert "Usage: kubectl aligntune list" in kubectl("aligntune", "list", "--help")
    proposed = kubectl("__complete", "aligntune", "status", "-n", api.namespace, "c")
    assert proposed.splitlines()[0] == "chat"
