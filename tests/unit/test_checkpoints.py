"""Which checkpoints a run goes on from, as far as their manifests tell."""

import json
from pathlib import Path

from aligntune.training.checkpoints import MANIFEST, broken


def test_a_checkpoint_of_a_version_with_more_fields_is_gone_on_with(tmp_path: Path) -> None:
    manifest = {
        "step": 4, "worldSize": 1, "strategy": "ddp", "config": {}, "files": {},
        "configHash": "0" * 64,
    }  # fmt: skip
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    assert broken(tmp_path) == ""
