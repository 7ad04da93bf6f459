"""Two stages by one kubectl apply, on a kubelet: the second trains on the first one's model."""

import pytest
import yaml

from tests.cluster.processes import REPOSITORY
from tests.e2e.conftest import Tenant


@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("operator")
def test_dpo_starts_from_the_model_that_sft_leaves(tenant: Tenant) -> None:
    text = (REPOSITORY / "examples" / "stages.yaml").read_text()
    sft, dpo = yaml.safe_load_all(text)
    sft["spec"]["sft"]["train"]["maxSteps"] = 2
    dpo["spec"]["rl"]["train"]["maxSteps"] = 2
    for manifest in (dpo, sft):
        tenant.apply(manifest)

    status = tenant.until_succeeded("better-answers")
    [source] = status["lineage"]
    assert source["path"] == tenant.status("answers")["model"]["path"]
    model = tenant.models / status["model"]["path"]
    assert (model / "model.safetensors").is_file()
    assert not (model / "adapter_config.json").exists()
    assert f"/answers ({source['uid']})" in (model / "README.md").read_text()
    tenant("delete", "atj", "answers", "better-answers")
