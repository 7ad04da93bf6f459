"""The chart as helm renders it: what meaningful values lead to, and what wrong ones are told.

Each folder of chart/ is a case: `values.yaml` in, `objects.yaml` out, rewritten by `make golden`.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from aligntune.api import env, labels
from aligntune_operator.settings import ENV_PREFIX, Settings
from tests.cluster.helm import CHART, NAMESPACE, RELEASE, helm
from tests.cluster.processes import REPOSITORY

PAGES = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")]
CASES = sorted(path.parent for path in Path(__file__).parent.glob("chart/*/values.yaml"))
CRD = "CustomResourceDefinition"
SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def documents(text: str) -> list[dict[str, Any]]:
    return [document for document in YAML(typ="safe").load_all(text) if document]


def render(*options: str | Path) -> list[dict[str, Any]]:
    return documents(helm("template", RELEASE, CHART, "--namespace", NAMESPACE, *options))


def variables_of(objects: list[dict[str, Any]]) -> dict[str, str]:
    [container] = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    return {variable["name"]: variable["value"] for variable in container["env"]}


def one(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    [found] = [item for item in objects if item["kind"] == kind]
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_values_lead_to_exactly_these_objects(case: Path, request: pytest.FixtureRequest) -> None:
    rendered = [item for item in render("-f", case / "values.yaml") if item["kind"] != CRD]
    file = case / "objects.yaml"
    if request.config.getoption("--rewrite-golden"):
        with StringIO() as stream:
            YAML().dump_all(rendered, stream)
            file.write_text(stream.getvalue())
    assert documents(file.read_text()) == rendered, f"{file} differs; see `make golden`"


def test_the_chart_has_no_lint() -> None:
    assert "1 chart(s) linted, 0 chart(s) failed" in helm("lint", "--strict", CHART)


def test_the_crd_is_upgraded_with_the_chart_and_kept_when_it_goes() -> None:
    made = one(render(), CRD)
    assert made["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert made["metadata"].pop("labels")["app.kubernetes.io/managed-by"] == "Helm"
    assert [made] == documents((REPOSITORY / "crds/aligntune.io_aligntunejobs.yaml").read_text())


def test_the_crd_can_be_left_to_somebody_else() -> None:
    assert CRD not in {item["kind"] for item in render("--set", "crd.install=false")}
    assert "annotations" not in one(render("--set", "crd.keep=false"), CRD)["metadata"]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("replica=2", "additional properties 'replica' not allowed"),
        ("replicas=0", "at '/replicas': minimum: got 0, want 1"),
        ("replicas=two", "at '/replicas': got string, want integer"),
        ("namespaces=research", "at '/namespaces': got string, want array"),
        ("namespaces[0]=Research", "at '/namespaces/0': 'Research' does not match"),
        ("image.digest=abc", "at '/image/digest': 'abc' does not match"),
        ("image.tag=1:2", "at '/image/tag': '1:2' does not match"),
        ("image.repository=A b", "at '/image/repository': 'A b' does not match"),
        ("trainer.trlImage=a b", "at '/trainer/trlImage': 'a b' does not match"),
        ("imagePullSecrets[0].name=A", "at '/imagePullSecrets/0/name': 'A' does not match"),
        ("trainer.imagePullSecrets[0].name=A", "at '/trainer/imagePullSecrets/0/name': 'A' does"),
        ("resources.limits.memory=1GB", "at '/resources/limits/memory': '1GB' does not match"),
        ("resources.requests.cpu=-1", "at '/resources/requests/cpu': minimum: got -1, want 0"),
        ("resources.limits.ram=1Gi", "at '/resources/limits': additional properties 'ram' not"),
        ("maxUnavailable=half", "at '/maxUnavailable': 'half' does not match"),
        ("maxUnavailable=101%", "at '/maxUnavailable': '101%' does not match"),
        ("priorityClassName=High", "at '/priorityClassName': 'High' does not match"),
        ("image.pullPolicy=Sometimes", "at '/image/pullPolicy': value must be one of"),
        ("imageRegistry=example.com/", "at '/imageRegistry': 'example.com/' does not match"),
        ("trainer.fsGroup=root", "at '/trainer/fsGroup': got string, want null or integer"),
        ("settings.logLevel=LOUD", "at '/settings/logLevel': value must be one of 'DEBUG'"),
        ("limits.images[0]=a*", "at '/limits/images/0': 'a*' does not match"),
        ("limits.devices[0]=memory", "at '/limits/devices/0': 'memory' does not match"),
        ("limits.secrets=some", "at '/limits/secrets': value must be one of 'any'"),
        ("limits.gpus=8", "at '/limits': additional properties 'gpus' not allowed"),
        ("tolerations[0].keyy=gpu", "at '/tolerations/0': additional properties 'keyy'"),
        ("crd.install=maybe", "at '/crd/install': got string, want boolean"),
        ("settings.memoryEstimate=maybe", "at '/settings/memoryEstimate': value must be one of"),
        ("settings.hubEndpoint=hub", "at '/settings/hubEndpoint': 'hub' does not match"),
        (
            "networkPolicy.apiServerCidrs={10.0.0.1}",
            "at '/networkPolicy/apiServerCidrs/0': '10.0.0.1'",
        ),
        (
            "networkPolicy.apiServerCidrs={10.0.0.256/8}",
            "at '/networkPolicy/apiServerCidrs/0': '10.0.0.256/8'",
        ),
        (
            "networkPolicy.apiServerCidrs={10.0.0.0/33}",
            "at '/networkPolicy/apiServerCidrs/0': '10.0.0.0/33'",
        ),
        (
            "networkPolicy.apiServerCidrs={fd00::1/129}",
            "at '/networkPolicy/apiServerCidrs/0': 'fd00::1/129'",
        ),
        ("settings.hubEndpoint=https://hub:abc", "at '/settings/hubEndpoint': 'https://hub:abc'"),
        ("settings.hubEndpoint=https://hub/%zz", "at '/settings/hubEndpoint': 'https://hub/%zz'"),
        ("podLabels.a b=c", "at '/podLabels': additional properties 'a b' not allowed"),
        ("podLabels.a=b c", "at '/podLabels/a': 'b c' does not match"),
        ("nodeSelector.-a=b", "at '/nodeSelector': additional properties '-a' not allowed"),
        ("podAnnotations.a b=c", "at '/podAnnotations': additional properties 'a b' not"),
        ("metrics.prometheusRule.runbooks=docs", "at '/metrics/prometheusRule/runbooks': 'docs'"),
        ("metrics.podMonitor.interval=often", "at '/metrics/podMonitor/interval': 'often' does"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(value: str, told: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        render("--set", value)
    assert told in caught.value.stderr


def every_value(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Sections and the values in them by their names, such as `image` and `image.tag`."""
    for name, part in schema.get("properties", {}).items():
        yield f"{path}{name}", part
        if name != "affinity":
            yield from every_value(part, f"{path}{name}.")


VALUES = {name: part for name, part in every_value(SCHEMA) if name != "global"}


@pytest.mark.parametrize("value", VALUES)
def test_null_is_refused_by_the_values_name_unless_its_meaning_is_told(value: str) -> None:
    """Helm takes out what is null; `--reuse-values` lacks what the chart before did not know."""
    if "null:" in VALUES[value]["description"]:
        assert render("--set", f"{value}=null")
        return
    section, _, name = value.rpartition(".")
    where = f"/{section}".replace(".", "/").rstrip("/")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        render("--set", f"{value}=null")
    assert f"at '{where}': missing property '{name}'" in caught.value.stderr


@pytest.mark.parametrize(
    "value",
    [
        "image.tag=v1.0_rc-1",
        "image.repository=ml/aligntune.operator",
        "trainer.trlImage=ml/Trainer:1@sha256:0f",
        "imagePullSecrets[0].name=registry.example",
        "resources.limits.memory=1.5Gi",
        "resources.requests.cpu=0.5",
        r"resources.limits.example\.com/device=1",
        "maxUnavailable=2",
        "maxUnavailable=50%",
        "priorityClassName=system-cluster-critical",
        "networkPolicy.apiServerCidrs={10.96.0.0/12,::/0,fd00::10.0.0.1/128,fd00:1::/64}",
        "settings.hubEndpoint=https://hub.internal:8443/a/b",
        "settings.hubEndpoint=http://[fd00::1]:80",
        r"podLabels.example\.com/team=",
        r"podAnnotations.example\.com/owner=The platform",
    ],
)
def test_what_kubernetes_takes_is_not_refused(value: str) -> None:
    assert render("--set", value)


@pytest.mark.parametrize(
    ("request_", "limit", "fits"),
    [
        ("1Gi", "1024Mi", True),
        ("1Gi", "1G", False),
        ("1e9", "1G", True),
        ("2e9", "1G", False),
        ("1500m", "1.5", True),
        ("1501m", "1.5", False),
        ("1", "0", False),
    ],
)
def test_a_request_beyond_its_limit_is_told_before_anything_is_installed(
    request_: str, limit: str, fits: bool
) -> None:
    values = ("--set", f"resources.requests.memory={request_},resources.limits.memory={limit}")
    if fits:
        assert render(*values)
        return
    with pytest.raises(subprocess.CalledProcessError) as caught:
        render(*values)
    told = f"resources.requests.memory is {request_}, but resources.limits.memory is {limit}: lower"
    assert told in caught.value.stderr


def test_no_variable_of_training_pods_takes_the_place_of_the_operators_own() -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        render("--set", "trainer.env[0].name=ALIGNTUNE_POD_UID,trainer.env[0].value=x")
    assert "trainer.env: ALIGNTUNE_POD_UID begins with ALIGNTUNE_" in caught.value.stderr


@pytest.mark.parametrize("name", ["my.release", "1st"])
def test_a_releases_name_that_no_service_may_have_is_told(name: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        helm("template", name, CHART)
    assert f"The release's name {name} is no name of a Service: begin" in caught.value.stderr


def values_in(manifest: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """What a manifest hands to the chart: as values alone, or as a GitOps tool's object."""
    match manifest:
        case {"kind": "Application", "spec": {"source": {"helm": {"valuesObject": values}}}}:
            return dict(values)
        case {"kind": "HelmRelease", "spec": {"values": values}}:
            return dict(values)
    return manifest if manifest.keys() <= names else {}


def test_the_chart_takes_all_values_that_the_pages_tell(tmp_path: Path) -> None:
    blocks = [
        block
        for page in PAGES
        for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    ]
    names = set(YAML(typ="safe").load(CHART / "values.yaml"))
    manifests = [manifest for block in blocks for manifest in documents(block)]
    told = [values for manifest in manifests if (values := values_in(manifest, names))]
    # Of Argo CD and Flux, the air-gapped cluster, and the limits on jobs.
    assert len(told) >= 4
    for number, values in enumerate(told):
        file = tmp_path / f"{number}.yaml"
        YAML().dump(values, file)
        render("-f", file)


def test_who_may_not_list_nodes_cannot_refuse_jobs_by_their_memory() -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        render("--set", "settings.memoryEstimate=refuse,namespaces={research}")
    assert "settings.memoryEstimate is refuse, but an operator for some" in caught.value.stderr


@pytest.mark.parametrize(
    ("values", "granted"),
    [
        ("settings.memoryEstimate=warn", True),
        ("settings.memoryEstimate=refuse", True),
        ("settings.memoryEstimate=off", False),
        ("settings.hubEndpoint=", False),
        ("namespaces={research}", False),
    ],
)
def test_nodes_may_be_listed_only_where_memory_is_estimated(values: str, granted: bool) -> None:
    roles = [item for item in render("--set", values) if item["kind"] in ("ClusterRole", "Role")]
    rules = [rule for role in roles for rule in role["rules"]]
    about_nodes = [rule["verbs"] for rule in rules if "nodes" in rule["resources"]]
    assert about_nodes == ([["list"]] if granted else [])


def test_no_part_of_the_schema_lets_an_unknown_value_pass() -> None:
    def open_objects(schema: dict[str, Any], path: str) -> list[str]:
        below = {**schema.get("properties", {})}
        if "items" in schema:
            below["[]"] = schema["items"]
        found = [
            hit for name, part in below.items() for hit in open_objects(part, f"{path}/{name}")
        ]
        is_open = schema.get("type") == "object" and "additionalProperties" not in schema
        return [*([path] if is_open else []), *found]

    passed_on = {f"/affinity/{kind}" for kind in ("nodeAffinity", "podAffinity", "podAntiAffinity")}
    assert set(open_objects(SCHEMA, "")) == {"/global", *passed_on}


def test_every_value_is_used_by_a_template() -> None:
    templates = "".join(
        file.read_text() for file in (CHART / "templates").rglob("*") if file.is_file()
    )

    def leaves(part: dict[str, Any], name: str) -> list[str]:
        children = part.get("properties", {})
        if name in ("affinity", "global") or not children:
            return [name]
        return [leaf for child in children for leaf in leaves(children[child], child)]

    unused = [
        leaf
        for leaf in leaves(SCHEMA, "")
        if leaf != "global" and not re.search(rf"\.{leaf}\b", templates)
    ]
    assert not unused


def test_settings_have_the_operators_bounds_defaults_and_variables() -> None:
    values = YAML(typ="safe").load(CHART / "values.yaml")
    operators = Settings.model_json_schema()["properties"]
    for name, told in SCHEMA["properties"]["settings"]["properties"].items():
        field = operators[re.sub("[A-Z]", lambda upper: f"_{upper[0].lower()}", name)]
        assert values["settings"][name] == field["default"]
        for bound in ("minimum", "maximum", "enum", "maxLength", "pattern"):
            assert told.get(bound) == field.get(bound), (name, bound)
    assert values["trainer"]["fsGroup"] == operators["fs_group"]["default"]
    variables = variables_of(render())
    assert variables.keys() == {ENV_PREFIX + name.upper() for name in operators}
    for name in ("trl_image", "unsloth_image"):
        assert variables[ENV_PREFIX + name.upper()] == operators[name]["default"]


def test_all_images_have_the_tag_of_their_version() -> None:
    """A node that has an image keeps it, and would train on with it after an upgrade."""
    objects = render("--set", "image.tag=0.2.0")
    [operator] = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    variables = variables_of(objects)
    assert operator["image"] == "aligntune/operator:0.2.0"
    assert variables[f"{ENV_PREFIX}TRL_IMAGE"] == "aligntune/trainer:0.2.0-trl"
    assert variables[f"{ENV_PREFIX}UNSLOTH_IMAGE"] == "aligntune/trainer:0.2.0-unsloth"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_operator_reads_what_the_chart_hands_down(
    case: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables_of(render("-f", case / "values.yaml")).items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    values = YAML(typ="safe").load(case / "values.yaml")
    assert settings.namespaces == tuple(values.get("namespaces", ()))
    assert settings.fs_group == values.get("trainer", {}).get("fsGroup", 65532)
    assert settings.lease_namespace == NAMESPACE
    pull_secrets = [{"name": secret.name} for secret in settings.image_pull_secrets]
    assert pull_secrets == values.get("trainer", {}).get("imagePullSecrets", [])


def test_network_policy_and_monitor_speak_of_the_pods_that_the_operator_makes() -> None:
    options = ("--set=networkPolicy.enabled=true", "--set=metrics.podMonitor.enabled=true")
    objects = render(*options)
    pods = {"matchExpressions": [{"key": labels.JOB_NAME, "operator": "Exists"}]}
    *_, progress = one(objects, "NetworkPolicy")["spec"]["egress"]
    assert progress["ports"] == [{"port": env.PROGRESS_PORT}]
    assert progress["to"][0]["podSelector"] == pods
    assert one(objects, "PodMonitor")["spec"]["selector"] == pods


def test_helm_test_may_ask_an_operator_that_only_prometheus_may_ask() -> None:
    only = "networkPolicy.metricsFromNamespaces.name=monitoring"
    objects = render("--set", f"networkPolicy.enabled=true,{only}")
    [rule] = one(objects, "NetworkPolicy")["spec"]["ingress"]
    selectors = [p["podSelector"]["matchLabels"] for p in rule["from"] if "podSelector" in p]
    test, operator = one(objects, "Pod"), one(objects, "Deployment")["spec"]["template"]
    for pod, is_let_in in ((test, True), (operator, False)):
        labels_of_it = pod["metadata"]["labels"].items()
        assert any(s.items() <= labels_of_it for s in selectors) == is_let_in


def test_helm_test_runs_where_the_operator_does_and_within_its_resources() -> None:
    objects = render("-f", Path(__file__).parent / "chart" / "placed" / "values.yaml")
    test, operator = one(objects, "Pod"), one(objects, "Deployment")["spec"]["template"]
    placement = ("imagePullSecrets", "priorityClassName", "nodeSelector", "tolerations")
    assert [test["spec"][name] for name in placement] == [
        operator["spec"][name] for name in placement
    ]
    assert (
        test["spec"]["containers"][0]["resources"] == operator["spec"]["containers"][0]["resources"]
    )


def test_the_operator_may_be_kept_from_all_hosts_but_the_api_server() -> None:
    cidrs = "networkPolicy.apiServerCidrs={10.96.0.1/32,172.18.0.0/28}"
    api_server, *_ = one(render("--set", f"networkPolicy.enabled=true,{cidrs}"), "NetworkPolicy")[
        "spec"
    ]["egress"]
    assert [peer["ipBlock"]["cidr"] for peer in api_server["to"]] == [
        "10.96.0.1/32",
        "172.18.0.0/28",
    ]


@pytest.mark.parametrize(
    "values", ["settings.memoryEstimate=warn", "settings.hubEndpoint=", "namespaces={research}"]
)
def test_the_name_of_the_api_server_is_found_also_without_a_hub(values: str) -> None:
    objects = render("--set", f"networkPolicy.enabled=true,{values}")
    egress = one(objects, "NetworkPolicy")["spec"]["egress"]
    assert {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53}]} in egress
    openshift = {"matchLabels": {"kubernetes.io/metadata.name": "openshift-dns"}}
    ports = [{"port": 5353, "protocol": "UDP"}, {"port": 5353}]
    assert {"ports": ports, "to": [{"namespaceSelector": openshift}]} in egress


def test_alerts_without_a_site_have_no_link_that_leads_nowhere() -> None:
    rules = one(render("--set", "metrics.prometheusRule.enabled=true"), "PrometheusRule")["spec"]
    annotations = [rule["annotations"] for group in rules["groups"] for rule in group["rules"]]
    assert all(annotation.keys() == {"summary"} for annotation in annotations)


def test_alerts_about_an_operator_are_about_the_one_that_they_come_with() -> None:
    objects = render("--set", "metrics.prometheusRule.enabled=true")
    rules = [
        rule
        for group in one(objects, "PrometheusRule")["spec"]["groups"]
        for rule in group["rules"]
    ]
    asked = re.findall(r'job="(.*?)"', " ".join(rule["expr"] for rule in rules))
    # Prometheus' operator takes the Service's name for the label.
    assert set(asked) == {one(objects, "Service")["metadata"]["name"]}


def test_the_operator_is_let_in_by_the_policies_that_it_makes() -> None:
    objects = render("--set", "jobNetworkPolicies.enabled=true")
    template = one(objects, "Deployment")["spec"]["template"]
    [container] = template["spec"]["containers"]
    [told] = [v["value"] for v in container["env"] if v["name"] == f"{ENV_PREFIX}OBSERVERS"]
    [operator] = Settings(observers=json.loads(told)).observers
    namespace = operator["namespaceSelector"]["matchLabels"]
    assert namespace == {"kubernetes.io/metadata.name": NAMESPACE}
    assert operator["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()


def test_a_name_that_reads_as_a_number_or_a_truth_stays_a_name() -> None:
    values = (
        *("--set-string", "namespaces={2024}", "--set-string", "priorityClassName=1000"),
        *("--set-string", "trainer.trlImage=1e3", "--set", "networkPolicy.enabled=true"),
        *(
            "--set",
            "metrics.serviceMonitor.enabled=true",
            "--set",
            "metrics.podMonitor.enabled=true",
        ),
        *(
            "--set",
            "metrics.dashboards.enabled=true",
            "--set",
            "metrics.prometheusRule.enabled=true",
        ),
    )
    objects = documents(helm("template", "true", CHART, "--namespace", "1234", *values))
    keys = ("name", "namespace", "value", "priorityClassName", "serviceAccountName")
    found = [
        (item["kind"], key, value)
        for item in objects
        if item["kind"] != CRD
        for key, value in leaves(item)
        if key in (*keys, "app.kubernetes.io/instance") and not isinstance(value, str)
    ]
    assert found == []


def leaves(value: object, key: str = "") -> Iterator[tuple[str, object]]:
    """Every value within that holds no others, with its key."""
    match value:
        case dict():
            for name, within in value.items():
                yield from leaves(within, name)
        case list():
            for within in value:
                yield from leaves(within, key)
        case _:
            yield key, value


@pytest.mark.parametrize("sidecar", [True, False])
def test_a_mesh_leaves_every_pod_of_the_chart_alone_unless_it_is_let_in(sidecar: bool) -> None:
    objects = render("--set", f"meshSidecar={str(sidecar).lower()}")
    pods = [one(objects, "Deployment")["spec"]["template"], one(objects, "Pod")]
    for metadata in (pod["metadata"] for pod in pods):
        assert (labels.NO_SIDECAR_LABELS.items() <= metadata["labels"].items()) != sidecar
        assert (labels.NO_SIDECAR_ANNOTATIONS.items() <= metadata["annotations"].items()) != sidecar


@pytest.mark.parametrize("enabled", [True, False])
def test_network_policies_may_be_made_only_where_they_are_asked_for(enabled: bool) -> None:
    objects = render("--set", f"jobNetworkPolicies.enabled={str(enabled).lower()}")
    rules = [rule for item in objects if item["kind"] == "ClusterRole" for rule in item["rules"]]
    assert enabled == any("networkpolicies" in rule["resources"] for rule in rules)


def test_the_readme_and_the_schema_are_those_of_the_values() -> None:
    told = (CHART / "README.md").read_text()
    values = YAML(typ="safe").load(CHART / "values.yaml")
    for section in values:
        assert f"`{section}" in told
