"""Who waits for whom, and what a failure says after many stages."""

from aligntune.api.status import Failure
from aligntune_operator.observe import align_tune_job_state, observe
from aligntune_operator.stages import LONGEST_CAUSE, failure, find_path


def test_a_cycle_is_told_from_jobs_that_only_lead_to_one() -> None:
    waits = {"a": ("b",), "b": ("c", "d"), "c": ("b",), "d": ()}
    assert find_path("a", "a", waits.__getitem__) == []
    assert find_path("b", "b", waits.__getitem__) == ["b", "c", "b"]
    assert find_path("d", "d", waits.__getitem__) == []
    assert find_path("a", "d", waits.__getitem__) == ["a", "b", "d"]


def test_a_failure_that_many_stages_pass_on_stays_within_its_bounds() -> None:
    def job(name: str, source: str, status: dict[str, object]) -> dict[str, object]:
        return {
            "metadata": {
                "name": name,
                "namespace": "ns",
                "uid": name,
                "resourceVersion": "1",
                "generation": 1,
                "creationTimestamp": "2026-11-01T12:00:00Z",
            },
            "spec": {
                "sft": {"model": {"fromJob": source}, "datasets": [{"name": "d"}]},
                "storage": {"claimName": "c"},
            },
            "status": status,
        }

    longest = Failure(reason="DataError", message="x" * 4096, retryable=False)  # type: ignore[arg-type]
    failed = {
        "conditions": [
            {
                "type": "Failed",
                "status": "True",
                "reason": "DataError",
                "message": "x",
                "lastTransitionTime": "2026-11-01T12:00:00Z",
            }
        ],
        "failure": longest.model_dump(mode="json", by_alias=True),
    }
    source = align_tune_job_state(job("source", "first", failed))
    found = failure(
        observe(align_tune_job_state(job("next", "source", {})), sources={"source": source})
    )
    assert found is not None
    assert found.message.count("x") >= LONGEST_CAUSE
