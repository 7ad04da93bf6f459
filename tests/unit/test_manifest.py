import textwrap
from pathlib import Path

import pytest

from aligntune.api.job import AlignTuneJobSpec
from aligntune.api.manifest import ManifestError, read_documents, read_manifests, read_run_config

GOOD = """\
apiVersion: aligntune.io/v1alpha1
kind: AlignTuneJob
metadata: {name: chat}
spec:
  sft:
    model: {name: m}
    datasets: [{name: d}]
    train:
      learningRate: 2e-4
  storage: {claimName: models}
"""


def refusal(tmp_path: Path, text: str | bytes) -> str:
    file = tmp_path / "job.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ManifestError) as caught:
        read_manifests(file)
    return str(caught.value).replace(str(file), "job.yaml")


def test_floats_are_read_as_kubernetes_reads_them(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(GOOD)
    [manifest] = read_manifests(file)
    assert manifest.spec.sft is not None
    assert manifest.spec.sft.train.learning_rate == 2e-4


def test_other_kinds_in_the_file_are_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(f"kind: ConfigMap\n---\n{GOOD}---\n")
    assert len(read_manifests(file)) == 1


def test_what_kubectl_prints_of_jobs_can_be_read_again_and_applied(tmp_path: Path) -> None:
    """Without what the server wrote: of that an apply would say that it is of an older version."""
    file = tmp_path / "jobs.yaml"
    printed = GOOD.replace("{name: chat}", "{name: chat, labels: {a: b}, uid: 1, generation: 2}")
    job = textwrap.indent(printed + "status: {phase: Running}\n", "  ").replace("  ", "- ", 1)
    file.write_text(f"apiVersion: v1\nkind: List\nitems:\n{job}")
    [(manifest, document)] = read_documents(file)
    assert manifest.metadata.name == "chat"
    assert document["metadata"] == {"name": "chat", "labels": {"a": "b"}}
    assert document.keys() == {"apiVersion", "kind", "metadata", "spec"}


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("train:", "trian:", "job.yaml:8: spec.sft.trian: unknown field; did you mean 'train'?"),
        (
            "2e-4",
            '"2e-4"',
            "job.yaml:9: spec.sft.train.learningRate: must be a valid number, got '2e-4'",
        ),
        (
            "{name: m}",
            "{name: m, maxLength: 4}",
            "job.yaml:6: spec.sft.model.maxLength: must be greater than or equal to 8, got 4",
        ),
        (
            "  storage: {claimName: models}\n",
            "",
            (
                "job.yaml:4: spec.storage: the trained model would be lost: set storage.claimName,"
                " hub.push, or storage.ephemeral: true"
            ),
        ),
        ("name: chat", "name: Chat", "job.yaml:3: metadata.name: must match"),
        ("[{name: d}]", "[]", "job.yaml:7: spec.sft.datasets: must have at least 1 item"),
        ("[{name: d}]", "[{name: d]", "job.yaml:7: malformed YAML: expected ',' or '}'"),
        (
            "chat}",
            "chat, labels: {keep: yes}}",
            "job.yaml:3: metadata.labels.keep: kubectl reads a boolean here: put it in quotes",
        ),
        (
            "  storage:",
            "  runtime: {resources: {limits: {cpu: 0.5, memory: 32GB}}}\n  storage:",
            (
                "job.yaml:10: spec.runtime.resources.limits.cpu: must be a quantity such as"
                ' "0.5", 500m or 32Gi, got 0.5\n'
                "job.yaml:10: spec.runtime.resources.limits.memory: must be a quantity such as"
                " \"0.5\", 500m or 32Gi, got '32GB'"
            ),
        ),
        (
            "  storage:",
            "  runtime: {topologyKey: zone, affinity: {podAffinity: null}}\n  storage:",
            "job.yaml:10: spec.runtime.affinity.podAffinity: must be a mapping",
        ),
        (
            "learningRate",
            "learning_rate",
            (
                "job.yaml:9: spec.sft.train.learning_rate: unknown field; did you mean"
                " 'learningRate'?"
            ),
        ),
        ("v1alpha1", "v2", "job.yaml:1: apiVersion: must be 'aligntune.io/v1alpha1', got"),
    ],
)
def test_a_mistake_is_told_with_file_line_field_and_remedy(
    tmp_path: Path, old: str, new: str, sentence: str
) -> None:
    assert refusal(tmp_path, GOOD.replace(old, new)).startswith(sentence)


def test_both_methods_and_neither_are_one_sentence(tmp_path: Path) -> None:
    rl = "  rl: {algo: dpo, model: {name: m}, datasets: [{name: d}]}\n"
    sentence = "spec: set exactly one of sft (supervised) and rl (dpo, ppo, grpo, reward)"
    assert sentence in refusal(tmp_path, GOOD + rl)
    neither = "\n".join([*GOOD.splitlines()[:4], "  storage: {claimName: models}"])
    assert sentence in refusal(tmp_path, neither)


def test_what_is_no_manifest_at_all_is_said(tmp_path: Path) -> None:
    assert refusal(tmp_path, "") == "job.yaml: no AlignTuneJob in this file"
    assert refusal(tmp_path, b"\xff\xfe") == "job.yaml: not a text file (UTF-8 expected)"
    assert "must be an object, got a list" in refusal(tmp_path, "- a\n- b\n")
    assert refusal(tmp_path, "&a [*a]") == "job.yaml:1: nested too deeply"
    with pytest.raises(ManifestError, match="No such file"):
        read_manifests(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("suspend: \a", "job.yaml:11: malformed YAML: unprintable character '\\x07'"),
        ("? [a, b]\n  : c", "job.yaml:4: spec.('a', 'b'): unknown field; remove it"),
        ("? {a: b}\n  : c", "job.yaml:4: spec.ordereddict([('a', 'b')]): unknown field; remove it"),
        ("int: 1", "job.yaml:11: spec.int: unknown field; remove it"),
        ("suspend: !!int abc", "job.yaml: malformed YAML: invalid literal for int()"),
        ("suspend: !!bool abc", "job.yaml: malformed YAML: 'abc'"),
        ("suspend: " + "[" * 3000, "job.yaml: malformed YAML: maximum recursion depth exceeded"),
        ("suspend: 2001-13-45", "job.yaml: malformed YAML: month must be in 1..12"),
    ],
)
def test_what_yaml_allows_and_a_manifest_does_not_is_a_sentence(
    tmp_path: Path, text: str, sentence: str
) -> None:
    assert refusal(tmp_path, f"{GOOD}  {text}\n").startswith(sentence)


def test_the_mistakes_of_every_job_in_the_file_are_told(tmp_path: Path) -> None:
    wrong = GOOD.replace("2e-4", "-1")
    told = refusal(tmp_path, f"{wrong}---\n{GOOD}---\n{wrong}").splitlines()
    assert [line.partition(": ")[0] for line in told] == ["job.yaml:9", "job.yaml:31"]


def test_a_run_config_in_json_needs_no_yaml_reader(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text('{"sft": {"model": {"name": "m"}, "datasets": [{"name": "d"}]}, "attempt": 0}')
    with pytest.raises(ManifestError, match=r"run\.json: attempt: must be greater than or equal"):
        read_run_config(file)
    file.write_text('{"sft": \n}')
    with pytest.raises(ManifestError, match=r"run\.json:2: malformed JSON: Expecting value"):
        read_run_config(file)


def test_a_run_config_is_one_document(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("sft: {model: {name: m}, datasets: [{name: d}]}\n")
    assert read_run_config(file).task == "sft"
    file.write_text("---\n---\n")
    with pytest.raises(ManifestError, match="one document expected, found 2"):
        read_run_config(file)


def test_a_document_is_validated_once_but_a_long_one_is_not_kept() -> None:
    short = {"sft": {"model": {"name": "m"}, "datasets": [{"name": "d"}]}}
    storage = {"claimName": "models"}
    read = AlignTuneJobSpec.parse(short | {"storage": storage})
    assert AlignTuneJobSpec.parse(short | {"storage": storage}) is read
    env = [{"name": f"V{number}", "value": "x" * 32} for number in range(100)]
    long = short | {"storage": storage, "runtime": {"env": env}}
    assert AlignTuneJobSpec.parse(long) is not AlignTuneJobSpec.parse(long)
