import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from aligntune.api.manifest import read_run_config
from aligntune.cli import app
from aligntune.core.errors import ConfigError

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "examples"
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
    assert f"{broken}:1: metadata: required field is missing" in err
    assert "absent.yaml: cannot be read: No such file or directory" in err
    assert ": valid (" in out


def test_validate_refuses_what_no_trainer_here_can_do(tmp_path: Path) -> None:
    file = tmp_path / "topics.yaml"
    file.write_text(
        "apiVersion: aligntune.io/v1alpha1\nkind: AlignTuneJob\nmetadata: {name: a}\n"
        "spec:\n  backend: unsloth\n"
        "  sft: {task: text_classification, model: {name: m}, datasets: [{name: d}]}\n"
        "  storage: {claimName: c}\n"
    )
    code, _, err = run("validate", file)
    assert code == 78
    assert err.startswith(f"{file}:5: spec.backend: unsloth has no trainer for classification")


def test_every_unsupported_setting_is_told_by_the_line_it_is_on(tmp_path: Path) -> None:
    file = tmp_path / "jobs.yaml"
    job = (EXAMPLES / "sft-chat.yaml").read_text()
    wrong = job.replace("train: {", "train: {packing: true, ")
    file.write_text(f"{wrong}\n---\n{wrong}")
    lines = [n for n, line in enumerate(file.read_text().splitlines(), 1) if "packing" in line]
    code, _, err = run("validate", file)
    assert code == 78
    for line in lines:
        assert f"{file}:{line}: spec.sft.train.packing: needs model.attention: flash_att" in err
    assert len(lines) == len(err.splitlines()) == 2


def test_render_refuses_what_the_operator_would(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    job = (EXAMPLES / "sft-chat.yaml").read_text().replace("backend: trl", "backend: unsloth")
    file.write_text(job.replace("train: {", "train: {compile: true, "))
    with pytest.raises(ConfigError, match=r"spec.sft.train.compile: unsloth .* use backend: trl"):
        run("render", file)


def test_unsloth_in_several_processes_is_refused_in_a_config_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    config = "backend: unsloth\nsft: {model: {name: m}, datasets: [{name: d}]}\n"
    file.write_text(f"{config}processesPerNode: 2\n")
    with pytest.raises(ConfigError, match=r"processesPerNode: unsloth trains in one process"):
        read_run_config(file)


def test_render_shows_nothing_of_a_suspended_job_and_says_so(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text((EXAMPLES / "sft-chat.yaml").read_text() + "  suspend: true\n")
    code, out, err = run("render", file)
    assert (code, out) == (0, "")
    assert "is suspended" in err


def test_without_the_operators_packages_a_sentence_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules |= dict.fromkeys(['aiohttp', 'kopf', 'pydantic_settings']);"
        f"sys.argv = ['aligntune', 'render', {str(EXAMPLES / 'sft-chat.yaml')!r}];"
        "from aligntune.cli import main; main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True
    )
    assert result.returncode == 78
    assert result.stderr == (
        "this needs pydantic_settings: install aligntune-operator with its extra [operator]\n"
    )


def test_render_shows_the_objects_that_the_operator_would_make() -> None:
    code, out, _ = run("render", EXAMPLES / "sft-chat.yaml")
    assert code == 0
    [job] = YAML(typ="safe").load_all(out)
    assert job["kind"] == "Job"
    assert job["spec"]["template"]["spec"]["containers"][0]["args"][0] == "launch"


def test_kubectl_reads_no_boolean_where_a_rendered_string_looks_like_one(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    job = (EXAMPLES / "sft-chat.yaml").read_text()
    file.write_text(job.replace("runtime:\n", "runtime:\n    env: [{name: DEBUG, value: 'on'}]\n"))
    _, out, _ = run("render", file)
    assert "value: 'on'\n" in out


def test_render_says_which_setting_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNTUNE_OPERATOR_WORKERS", "0")
    with pytest.raises(ConfigError, match="ALIGNTUNE_OPERATOR_WORKERS"):
        run("render", EXAMPLES / "sft-chat.yaml")


def test_run_does_not_leave_out_variables_that_only_a_cluster_has(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    job = (EXAMPLES / "sft-chat.yaml").read_text()
    file.write_text(
        job.replace("runtime:\n", "runtime:\n    envFrom: [{secretRef: {name: keys}}]\n")
    )
    with pytest.raises(ConfigError, match=r"spec.runtime.envFrom: .* in the cluster"):
        run("run", file, "--output", tmp_path, "--volume", f"cache={tmp_path}")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "say which folder stands for it with --volume cache=FOLDER"),
        (["--volume", "other=/tmp"], "the manifest has no such volume; it has cache"),
    ],
)
def test_run_says_which_volume_it_lacks(tmp_path: Path, options: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        run("run", EXAMPLES / "sft-chat.yaml", "--output", tmp_path, *options)


@pytest.mark.parametrize(("options", "shown"), [([], False), (["--debug"], True)])
def test_a_mistake_is_a_sentence_and_with_debug_a_traceback_too(
    tmp_path: Path, options: list[str], shown: bool
) -> None:
    job = EXAMPLES / "sft-chat.yaml"
    done = subprocess.run(
        [sys.executable, "-m", "aligntune", *options, "run", str(job), "--output", str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 78
    assert done.stderr.endswith("with --volume cache=FOLDER\n")
    assert ("Traceback" in done.stderr) is shown


def test_the_version_is_the_packages() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert run("--version") == (0, f"{project['version']}\n", "")


def test_the_help_loads_neither_the_client_nor_the_models() -> None:
    code = (
        "import sys, aligntune.cli;"
        "late = {'kubernetes', 'matplotlib', 'aligntune.api.job', 'aligntune_operator'};"
        "assert not late & set(sys.modules), late & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("command", "missing", "extra"),
    [("list", "kubernetes", "cluster"), ("plot", "matplotlib", "plot")],
)
def test_without_the_packages_for_clusters_a_sentence_says_what_to_install(
    command: str, missing: str, extra: str
) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None; sys.argv = ['aligntune', {command!r}, 'a'];"
        "from aligntune.cli import main; main()"
    ).replace("'list', 'a'", "'list'")
    result = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True
    )
    assert result.returncode == 78
    assert result.stderr.endswith(f": install aligntune-operator with its extra [{extra}]\n")
