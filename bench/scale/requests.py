"""What the API server was asked and keeps, as its own metrics count it; by whom it was asked, as
its audit log says.
"""

import json
import re
from collections import Counter

SERIES = re.compile(r"^apiserver_request_total\{(?P<labels>.*)\} (?P<value>\S+)$", re.MULTILINE)
WEBHOOKS = re.compile(
    r"^apiserver_admission_webhook_request_total\{(?P<labels>.*)\} (?P<value>\S+)$", re.MULTILINE
)
STORED = re.compile(
    r"^apiserver_resource_(?P<what>objects|size_estimate_bytes)\{(?P<labels>.*)\} (?P<value>\S+)$",
    re.MULTILINE,
)
LABEL = re.compile(r'(\w+)="([^"]*)"')
LASTING = ("WATCH", "CONNECT")
"""Verbs that last, and so are no cost of an object."""
ELSEWHERE = ("leases", "")
"""Resources whose requests go with time, not with objects; and none, as probes have."""
CLIENT = "client"
"""How those who measure call themselves."""
AGENTS = {"aligntune-operator": "operator", "trainer-controller-manager": "trainer"}
"""How others call themselves -> what the report calls them, where that is not the same."""
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "None", "verbs": ["watch"]}, {"level": "Metadata"}],
}


def counted(metrics: str) -> Counter[str]:
    """Requests so far, by `VERB resource`, from the text of the API server's /metrics.

    And calls of webhooks, by `webhook NAME`.
    """
    found: Counter[str] = Counter()
    for series in SERIES.finditer(metrics):
        labels = dict(LABEL.findall(series["labels"]))
        if labels["verb"] in LASTING or labels["resource"] in ELSEWHERE:
            continue
        resource = "/".join(filter(None, (labels["resource"], labels["subresource"])))
        found[f"{labels['verb']} {resource}"] += int(float(series["value"]))
    for series in WEBHOOKS.finditer(metrics):
        labels = dict(LABEL.findall(series["labels"]))
        found[f"webhook {labels['name']}"] += int(float(series["value"]))
    return found


def stored(metrics: str) -> dict[str, float]:
    """Bytes that an object takes in etcd, by resource, as the API server estimates now and then."""
    found: dict[str, dict[str, float]] = {}
    for series in STORED.finditer(metrics):
        resource = dict(LABEL.findall(series["labels"]))["resource"]
        found.setdefault(resource, {})[series["what"]] = float(series["value"])
    return {
        resource: sizes["size_estimate_bytes"] / sizes["objects"]
        for resource, sizes in found.items()
        if sizes.get("objects") and "size_estimate_bytes" in sizes
    }


def by_client(audit: str) -> Counter[str]:
    """Requests so far, by `client: verb resource`, from the lines of an audit log."""
    found: Counter[str] = Counter()
    for line in audit.splitlines():
        event = json.loads(line)
        asked = event.get("objectRef", {})
        if asked.get("resource", "") in ELSEWHERE:
            continue
        agent = event.get("userAgent", "").partition("/")[0]
        resource = "/".join(filter(None, (asked["resource"], asked.get("subresource"))))
        found[f"{AGENTS.get(agent, agent)}: {event['verb']} {resource}"] += 1
    return found


def per_object(before: Counter[str], after: Counter[str], objects: int) -> dict[str, float]:
    """Requests for each object, the most frequent first; those of less than 0.02 left out."""
    return {
        what: round(count / objects, 2)
        for what, count in (after - before).most_common()
        if count >= objects / 50
    }
