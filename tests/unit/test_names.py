"""Names of objects, which the API server must take, and under which they find each other."""

import re

import pytest

from aligntune.api.job import NAME_MAX_LENGTH, AlignTuneJobSpec
from aligntune_operator.observe import Key
from aligntune_operator.render.config import run_config
from aligntune_operator.render.job import job
from aligntune_operator.render.shared import shared_objects
from aligntune_operator.settings import Settings

DNS_1035_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
GANG = AlignTuneJobSpec.parse(
    {
        "sft": {"model": {"name": "m"}, "datasets": [{"name": "d"}]},
        "storage": {"claimName": "c"},
        "runtime": {"nodes": 2},
    }
)


@pytest.mark.parametrize("name", ["7b-sft", "7" * NAME_MAX_LENGTH, "chat"])
def test_a_gang_meets_under_a_name_that_a_service_may_have(name: str) -> None:
    key, settings = Key("ns", name), Settings(_env_file=None)
    (service,) = shared_objects(key, "uid", GANG, settings)
    template = job(key, "uid", GANG, 1, settings, generation=1)["spec"]["template"]
    _, domain, *_ = run_config(key, "uid", GANG, 1).master_address.split(".")
    assert service["metadata"]["name"] == template["spec"]["subdomain"] == domain
    assert DNS_1035_LABEL.fullmatch(domain)
