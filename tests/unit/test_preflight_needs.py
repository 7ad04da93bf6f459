"""What a job names that must be there before it starts."""

from aligntune.api.job import AlignTuneJobSpec
from aligntune.api.status import Source
from aligntune_operator.preflight import needs
from aligntune_operator.settings import Settings


def test_everything_that_others_must_have_made_is_looked_for_once_and_no_secret() -> None:
    spec = AlignTuneJobSpec.parse(
        {
            "sft": {"model": {"fromJob": "chat"}, "datasets": [{"name": "d"}]},
            "runtime": {
                "serviceAccountName": "trainer",
                "volumes": [
                    {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
                    {"name": "key", "secret": {"secretName": "key"}},
                    {"name": "settings", "configMap": {"name": "settings"}},
                ],
            },
            "hub": {"tokenSecret": {"name": "hf", "key": "token"}},
            "storage": {"claimName": "models"},
        }
    )
    lineage = [
        Source(job="chat", uid="1", claim_name="models", path="chat/model"),
        Source(job="judge", uid="2", repo_id="acme/judge"),
    ]
    found = needs(spec, lineage, {"kueue.x-k8s.io/queue-name": "gpu"}, Settings(_env_file=None))
    assert [(need.kind, need.name) for need in found] == [
        ("PersistentVolumeClaim", "data"),
        ("PersistentVolumeClaim", "models"),
        ("ServiceAccount", "trainer"),
        ("LocalQueue", "gpu"),
    ]
