"""What GitOps tools do to an AlignTuneJob, beside an operator that writes to it, too."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.conftest import Api

Make = Callable[..., dict[str, Any]]


def server_side(api: Api, manager: str, manifest: dict[str, Any]) -> str:
    return api(
        "apply", "--server-side", f"--field-manager={manager}", "-f", "-", stdin=manifest
    )  # fmt: skip


def generation(api: Api, name: str) -> int:
    return int(api.get("atj", name)["metadata"]["generation"])


@pytest.mark.usefixtures("operator")
def test_server_side_apply_by_another_manager_has_no_conflict_and_changes_nothing_twice(
    api: Api, manifest: Make
) -> None:
    server_side(api, "kustomize-controller", manifest("chat"))
    api.until("started", lambda: api.phase("chat") == "Starting")
    server_side(api, "kustomize-controller", manifest("chat"))
    assert generation(api, "chat") == 1
    managers = {
        entry["manager"]: json.dumps(entry["fieldsV1"])
        for entry in json.loads(api("get", "atj", "chat", "-o", "json", "--show-managed-fields"))[
            "metadata"
        ]["managedFields"]
    }
    assert "f:spec" in managers["kustomize-controller"]
    assert "f:spec" not in managers["aligntune-operator"]
    server_side(api, "kustomize-controller", manifest("chat", suspend=True))
    api.until("suspended", lambda: api.phase("chat") == "Suspended")
    assert len(api.jobs_of("chat")) == 0


@pytest.mark.usefixtures("operator")
def test_the_condition_of_another_controller_stays(api: Api, manifest: Make) -> None:
    api.apply(manifest("chat"))
    pod = api.pod_of("chat")
    approved = {
        "type": "example.com/Approved",
        "status": "True",
        "reason": "ByPolicy",
        "message": "",
        "lastTransitionTime": "2026-11-01T00:00:00Z",
    }
    identity = {key: manifest("chat")[key] for key in ("apiVersion", "kind", "metadata")}
    api(
        *("apply", "--server-side", "--subresource=status", "--field-manager=approver"),
        *("-f", "-"),
        stdin={**identity, "status": {"conditions": [approved]}},
    )
    api.play_kubelet(pod, running={"startedAt": "2026-11-01T00:00:00Z"})
    api.until("running", lambda: api.phase("chat") == "Running")
    assert api.condition("chat", "example.com/Approved") == approved


@pytest.mark.usefixtures("operator")
def test_orphans_are_left_alone_and_not_taken_over_by_a_job_of_the_same_name(
    api: Api, manifest: Make
) -> None:
    api.apply(manifest("chat"))
    api.pod_of("chat")
    [orphan] = api.jobs_of("chat")
    api("delete", "atj", "chat", "--cascade=orphan")
    api.until(
        "let go",
        lambda: "ownerReferences" not in api.get("job", orphan["metadata"]["name"])["metadata"],
    )
    api.apply(manifest("chat"))
    api.until("told", lambda: bool(api.status("chat")))
    assert (
        api.get("job", orphan["metadata"]["name"])["metadata"]["uid"] == orphan["metadata"]["uid"]
    )
    # Its pod may write to the output of a job of that name: the new one waits for its end.
    assert [job["metadata"]["name"] for job in api.jobs_of("chat")] == [orphan["metadata"]["name"]]
    api("delete", "job", orphan["metadata"]["name"])
    api.until("its own job", lambda: len(api.jobs_of("chat")) == 1)
    [job] = api.jobs_of("chat")
    assert job["metadata"]["name"] != orphan["metadata"]["name"]
