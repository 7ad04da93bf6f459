"""Where what is measured of learning is kept."""

import json
from pathlib import Path
from typing import Any

from aligntune.training.checkpoints import installed

RECORDS = Path("runs/learning")


def keep(name: str, results: Any, **settings: Any) -> None:
    """Write runs/learning/NAME.json: the results, and the settings and versions they are of."""
    document = {"versions": installed()} | settings | {"results": results}
    RECORDS.mkdir(parents=True, exist_ok=True)
    (RECORDS / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
