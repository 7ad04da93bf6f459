"""Where what is measured is kept."""

import json
from pathlib import Path
from typing import Any

from aligntune.training.checkpoints import installed

RECORDS = Path("runs/learning")


def keep(name: str, results: Any, *, folder: Path = RECORDS, **settings: Any) -> None:
    """Write FOLDER/NAME.json: the results, and the settings and versions they are of."""
    document = {"versions": installed()} | settings | {"results": results}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
