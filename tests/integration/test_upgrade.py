"""The chart over time, on an API server of its own: the CRD grows, and no job is lost."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.control_plane import ControlPlane
from tests.cluster.helm import CHART, NAMESPACE, RELEASE, helm
from tests.cluster.operator_process import CRD
from tests.integration.conftest import Api


def older_chart(folder: Path) -> Path:
    """The chart as it was before jobs could be suspended, and had no value `trainer.env`."""
    chart = folder / "aligntune-operator"
    shutil.copytree(CHART, chart)
    file = chart / "files" / CRD.name
    crd = yaml.safe_load(file.read_text())
    [version] = crd["spec"]["versions"]
    del version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["suspend"]
    file.write_text(yaml.safe_dump(crd))
    (chart / "values.schema.json").unlink()
    values = yaml.safe_load((chart / "values.yaml").read_text())
    del values["trainer"]["env"]
    (chart / "values.yaml").write_text(yaml.safe_dump(values))
    return chart


def test_jobs_outlive_upgrade_uninstall_and_reinstall(
    tmp_path: Path, manifest: Callable[..., dict[str, Any]]
) -> None:
    with ControlPlane(tmp_path / "state") as control_plane:
        api = Api(control_plane, "default")

        def release(verb: str, *options: str | Path) -> str:
            where = ("--namespace", NAMESPACE)
            return helm(verb, RELEASE, *options, *where, kubeconfig=control_plane.kubeconfig)

        release("install", older_chart(tmp_path), "--create-namespace")
        api.until(
            "the CRD is there", lambda: "jobs.aligntune.io" in api("get", "crd", "-o", "name")
        )
        control_plane.kubectl("wait", "--for=condition=Established", "crd", "--all")
        told = api.refusal("create", "-f", "-", stdin=manifest("one", suspend=True))
        assert 'unknown field "spec.suspend"' in told
        api.apply(manifest("one"))
        uid = api.get("atj", "one")["metadata"]["uid"]

        with pytest.raises(subprocess.CalledProcessError) as caught:
            release("upgrade", CHART, "--reuse-values")
        assert "at '/trainer': missing property 'env'" in caught.value.stderr
        release("upgrade", CHART, "--reset-then-reuse-values")
        suspend = json.dumps({"spec": {"suspend": True}})
        api("patch", "atj", "one", "--type=merge", "-p", suspend)
        assert api.get("atj", "one")["spec"]["suspend"] is True

        assert "were kept" in release("uninstall")
        release("install", CHART)
        assert api.get("atj", "one")["metadata"]["uid"] == uid


def test_a_crd_that_kubectl_applied_is_taken_over_only_when_asked(tmp_path: Path) -> None:
    with ControlPlane(tmp_path / "state") as control_plane:
        control_plane.install(CRD)
        install = ("install", RELEASE, CHART, "--namespace", NAMESPACE, "--create-namespace")
        with pytest.raises(subprocess.CalledProcessError) as caught:
            helm(*install, kubeconfig=control_plane.kubeconfig)
        assert "cannot be imported into the current release" in caught.value.stderr
        helm(*install, "--take-ownership", kubeconfig=control_plane.kubeconfig)
