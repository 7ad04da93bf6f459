"""What a job names is looked for before it holds a pod, and found when it comes later."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.conftest import Api, claim

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
