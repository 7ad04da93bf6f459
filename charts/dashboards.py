"""Writes the Grafana dashboards of the chart from dashboards.yaml."""

import json
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

CHARTS = Path(__file__).parent
SOURCE = CHARTS / "dashboards.yaml"
FOLDER = CHARTS / "aligntune-operator" / "files" / "dashboards"
WIDTH, HEIGHT, COLUMNS = 12, 8, 2
SOURCE_OF_DATA = {"type": "prometheus", "uid": "${datasource}"}
CHOICE_OF_SOURCE = {"name": "datasource", "type": "datasource", "query": "prometheus"}

Json = dict[str, Any]


def panel(number: int, source: Json) -> Json:
    """One panel, in the order of reading."""
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": source["title"],
        "datasource": SOURCE_OF_DATA,
        "gridPos": {
            "x": WIDTH * (number % COLUMNS),
            "y": HEIGHT * (number // COLUMNS),
            "w": WIDTH,
            "h": HEIGHT,
        },
        "fieldConfig": {"defaults": {"unit": source["unit"]}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "expr": expression, "legendFormat": legend}
            for index, (legend, expression) in enumerate(source["queries"].items())
        ],
    }


def variable(name: str, query: str) -> Json:
    """A choice above the panels."""
    return {
        "name": name,
        "type": "query",
        "datasource": SOURCE_OF_DATA,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
    }


def dashboard(name: str, source: Json) -> Json:
    """A dashboard as Grafana imports it."""
    variables = [variable(*each) for each in source.get("variables", {}).items()]
    return {
        "uid": f"aligntune-{name}",
        "title": source["title"],
        "tags": ["aligntune"],
        "schemaVersion": 39,
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": [CHOICE_OF_SOURCE, *variables]},
        "panels": [panel(*each) for each in enumerate(source["panels"])],
    }


def main() -> None:
    """Writes every dashboard."""
    FOLDER.mkdir(exist_ok=True)
    for name, source in YAML(typ="safe").load(SOURCE).items():
        text = json.dumps(dashboard(name, source), indent=2, ensure_ascii=False)
        (FOLDER / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
