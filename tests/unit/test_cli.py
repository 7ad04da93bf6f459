from pathlib import Path

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from aligntune.cli import app

EXAMPLES = Path(__file__).parents[2] / "examples"
ALL_EXAMPLES = sorted(EXAMPLES.glob("*.yaml"))


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("file", ALL_EXAMPLES, ids=lambda file: file.name)
def test_every_example_is_valid(file: Path) -> None:
    code, out, _ = run("validate", file)
    assert code == 0
    assert ": valid (" in out


def test_validate_goes_through_all_files_and_names_every_mistake(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("apiVersion: aligntune.io/v1alpha1\nkind: AlignTuneJob\nspec: {sfd: {}}\n")
    code, out, err = run("validate", broken, tmp_path / "absent.yaml", ALL_EXAMPLES[0])
    assert code == 78
    assert f"{broken}:3: spec.sfd: unknown field; did you mean 'sft'?" in err
    assert f"{broken}:1: metadata: required, but not there" in err
    assert "absent.yaml: cannot be read: No such file or directory" in err
    assert ": valid (" in out


def test_validate_refuses_what_no_trainer_here_can_do(tmp_path: Path) -> None:
    file = tmp_path / "dpo.yaml"
    file.write_text(
        "apiVersion: aligntune.io/v1alpha1\nkind: AlignTuneJob\nmetadata: {name: a}\n"
        "spec:\n  rl: {algo: dpo, model: {name: m}, datasets: [{name: d}]}\n"
        "  storage: {claimName: c}\n"
    )
    code, _, err = run("validate", file)
    assert code == 78
    assert err.startswith(f"{file}: backend: trl has no trainer for dpo")


def test_render_shows_the_objects_that_the_operator_would_make() -> None:
    code, out, _ = run("render", EXAMPLES / "sft-chat.yaml")
    assert code == 0
    [job] = YAML(typ="safe").load_all(out)
    assert job["kind"] == "Job"
    assert job["spec"]["template"]["spec"]["containers"][0]["args"][0] == "launch"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "say which folder stands for it with --volume cache=FOLDER"),
        (["--volume", "other=/tmp"], "the manifest has no such volume; it has cache"),
    ],
)
def test_run_says_which_volume_it_lacks(tmp_path: Path, options: list[str], sentence: str) -> None:
    from aligntune.core.errors import ConfigError

    with pytest.raises(ConfigError, match=sentence):
        run("run", EXAMPLES / "sft-chat.yaml", "--output", tmp_path, *options)
