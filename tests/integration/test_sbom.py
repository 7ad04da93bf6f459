"""The list of an image's packages, made as a release makes it, from a package index."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.cluster.processes import REPOSITORY


@pytest.mark.timeout(300)
def test_the_list_of_an_image_has_its_packages_by_the_pins_and_no_others(tmp_path: Path) -> None:
    asked = ["make", "sbom", "IMAGES=operator", f"DIST={tmp_path}"]
    subprocess.run(asked, cwd=REPOSITORY, check=True)
    components = json.loads((tmp_path / "operator.cdx.json").read_text())["components"]
    listed = {
        re.sub(r"[._]", "-", component["name"]).lower(): component["version"]
        for component in components
    }
    pins = (REPOSITORY / "constraints.txt").read_text().splitlines()
    assert listed.items() <= dict(pin.split("==") for pin in pins).items()
    assert {"kopf", "aiohttp", "pydantic-settings", "typer"} <= listed.keys()
    assert not listed.keys() & {"torch", "kubernetes", "pip"}
