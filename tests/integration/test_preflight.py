"""What a job names is looked for before it holds a pod, and found when it comes later."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.cluster.operator_process import Operator, claim
from tests.integration.conftest import Api

Make = Callable[..., dict[str, Any]]


@pytest.mark.usefixtures("operator")
def test_a_job_that_names_what_is_not_there_says_so_and_starts_once_it_is(
    api: Api, manifest: Make
) -> None:
    runtime = {"gpusPerNode": 0, "serviceAccountName": "trainer"}
    api.apply(manifest("chat", storage={"claimName": "later"}, runtime=runtime))
    api.until("refused", lambda: api.condition("chat", "Accepted")["reason"] == "ObjectsMissing")
    assert api.condition("chat", "Accepted")["message"] == (
        "spec.storage.claimName: there is no PersistentVolumeClaim later in this namespace; create"
        " it or name another. spec.runtime.serviceAccountName: there is no ServiceAccount trainer"
        " in this namespace; create it or name another."
    )
    assert api.condition("chat", "Stalled")["status"] == "True"
    assert not api.jobs_of("chat")
    api("create", "serviceaccount", "trainer")
    api.apply(claim("later"))
    api.until("started", lambda: bool(api.jobs_of("chat")))
    assert api.condition("chat", "Accepted")["status"] == "True"


@pytest.mark.usefixtures("operator")
def test_a_wrong_name_can_be_mended_in_place(api: Api, manifest: Make) -> None:
    api.apply(manifest("chat", storage={"claimName": "modles"}))
    api.until("refused", lambda: "modles" in api.condition("chat", "Accepted")["message"])
    api.apply(manifest("chat"))
    api.until("started", lambda: bool(api.jobs_of("chat")))


def test_a_job_waits_for_the_clusters_cache_of_models_in_its_namespace(
    control_plane: ControlPlane, api: Api, manifest: Make, tmp_path: Path
) -> None:
    log = tmp_path / "operator.log"
    operator = Operator(control_plane.kubeconfig, log, "--model-cache", "hub-cache")
    operator.start()
    api.apply(manifest("chat"))
    api.until("refused", lambda: "hub-cache" in api.condition("chat", "Accepted")["message"])
    api.apply(claim("hub-cache"))
    api.until("started", lambda: bool(api.jobs_of("chat")))
    assert operator.stop() == 0
