import gc
import importlib.util
import sys
from pathlib import Path

import pytest

from aligntune.api.run import RunConfig
from aligntune.pod.imports import quick_imports, unused_packages


@pytest.fixture
def unused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package that is installed and not imported yet."""
    (tmp_path / "package_nobody_needs.py").write_text("THERE = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    return "package_nobody_needs"


def test_unused_packages_seem_not_installed_until_the_imports_are_over(unused: str) -> None:
    with quick_imports([unused]):
        assert importlib.util.find_spec(unused) is None
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(unused)
    assert importlib.import_module(unused).THERE


def test_a_package_that_is_imported_already_stays(unused: str) -> None:
    module = importlib.import_module(unused)
    with quick_imports([unused]):
        assert sys.modules[unused] is module
    assert sys.modules[unused] is module


def test_garbage_is_collected_again_after_a_failed_import() -> None:
    def fail() -> None:
        with quick_imports([]):
            assert not gc.isenabled()
            importlib.import_module("package_that_is_not_there")

    with pytest.raises(ModuleNotFoundError):
        fail()
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("backend", "method", "kept"),
    [
        ("trl", {"sft": {}}, set()),
        ("trl", {"sft": {"task": "text_classification"}}, {"scipy", "sklearn"}),
        ("trl", {"sft": {"logging": {"trackers": ["wandb"]}}}, {"wandb"}),
        ("unsloth", {"sft": {}}, {"scipy", "sklearn", "wandb"}),
    ],
)
def test_what_a_run_uses_is_not_hidden(
    backend: str, method: dict[str, dict[str, object]], kept: set[str]
) -> None:
    needed = {"model": {"name": "m"}, "datasets": [{"name": "d"}], "outputDir": "/out"}
    sections = {name: needed | more for name, more in method.items()}
    run = RunConfig.model_validate({"backend": backend} | sections)
    assert unused_packages(run) == {"scipy", "sklearn", "wandb"} - kept
