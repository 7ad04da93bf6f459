"""What the API server was asked, as its own metrics count it."""

import re
from collections import Counter

SERIES = re.compile(r"^apiserver_request_total\{(?P<labels>.*)\} (?P<value>\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="([^"]*)"')
LASTING = ("WATCH", "CONNECT")
"""Verbs that last, and so are no cost of an object."""
ELSEWHERE = ("leases", "")
"""Resources whose requests go with time, not with objects; and none, as probes have."""


def counted(metrics: str) -> Counter[str]:
    """Requests so far, by `VERB resource`, from the text of the API server's /metrics."""
    found: Counter[str] = Counter()
    for series in SERIES.finditer(metrics):
        labels = dict(LABEL.findall(series["labels"]))
        if labels["verb"] in LASTING or labels["resource"] in ELSEWHERE:
            continue
        resource = "/".join(filter(None, (labels["resource"], labels["subresource"])))
        found[f"{labels['verb']} {resource}"] += int(float(series["value"]))
    return found


def per_object(before: Counter[str], after: Counter[str], objects: int) -> dict[str, float]:
    """Requests for each object, the most frequent first; those of less than 0.02 left out."""
    return {
        what: round(count / objects, 2)
        for what, count in (after - before).most_common()
        if count >= objects / 50
    }
