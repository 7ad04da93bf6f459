"""Names on the hub instead of folders: real clients in processes of their own, and a double."""

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
import torch
from huggingface_hub import constants
from peft import LoraConfig, get_peft_model
from ruamel.yaml import YAML
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from aligntune.api.causes import Cause
from aligntune.api.exit_codes import EXIT_CODE, ExitCode
from aligntune.api.progress import Outcome, Report
from aligntune.core.errors import HubPushError
from aligntune.data.rendering import PLAIN_CHAT_TEMPLATE
from aligntune.hub import answers
from aligntune.training.saving import push
from tests.cluster.processes import wait_until
from tests.hub.content import alpaca
from tests.hub.hub import READER, STRANGER, WRITER, Hub
from tests.trainers.tiny import rank_environments

LLAMA, DIALOGPT = "meta-llama/Llama-3.2-3B-Instruct", "microsoft/DialoGPT-medium"
ALPACA = "tatsu-lab/alpaca"
TRAIN_ALL = Path(__file__).parents[1] / "hub" / "train_all.py"
SNIPPET = """
from aligntune.core.backend_factory import create_sft_trainer
trainer = create_sft_trainer(model_name="meta-llama/Llama-3.2-3B-Instruct", dataset_name="tatsu-lab/alpaca", backend="trl")
results = trainer.train(); metrics = trainer.evaluate(); model_path = trainer.save_model(); answer = trainer.predict("What is AI?")
"""  # noqa: E501 - as the reference shows it
DPO_SNIPPET = """
from aligntune.core.backend_factory import create_rl_trainer
trainer = create_rl_trainer(model_name="microsoft/DialoGPT-medium", dataset_name="Anthropic/hh-rlhf", algorithm="dpo", backend="trl")
results = trainer.train(); metrics = trainer.evaluate(); model_path = trainer.save_model(); url = trainer.push_to_hub("username/my-model")
"""  # noqa: E501 - as the reference shows it


class Case(NamedTuple):
    """One run of `train_all`: sections laid over a good config, and what it must come to."""

    sections: dict[str, Any]
    token: str | None = READER
    cause: Cause | None = None
    sentence: str = ""
    push: str | None = None


def run(
    arguments: list[str | Path], cwd: Path, env: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Runs Python to its end, which has to be a good one."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def python(code: str, cwd: Path, env: dict[str, str]) -> Any:
    """Runs code in a process of its own; what it prints last, as JSON."""
    done = run(["-c", textwrap.dedent(code)], cwd=cwd, env=env)
    return json.loads(done.stdout.splitlines()[-1])


def train_all(cases: dict[str, Case], folder: Path, env: dict[str, str]) -> str:
    """Trains all cases in one process; what it printed."""
    for name, case in cases.items():
        (folder / name).mkdir(parents=True)
        method = {
            "model": {"name": LLAMA},
            "datasets": [{"name": ALPACA}],
            "train": {"maxSteps": 1},
            "outputDir": str(folder / name / "out"),
        }
        push = {"push": {"repoId": case.push}} if case.push else {}
        config = {"sft": method | case.sections} | push
        (folder / name / "run.json").write_text(json.dumps(config))
        if case.token:
            (folder / name / "token").write_text(case.token)
    done = run([TRAIN_ALL, folder], cwd=folder.parent, env=env)
    return done.stderr


def outcome(folder: Path) -> Outcome:
    last = (folder / "report.jsonl").read_text().splitlines()[-1]
    ended = Report.model_validate_json(last).outcome
    assert ended is not None
    return ended


def check(case: Case, ended: Outcome) -> None:
    code = EXIT_CODE[case.cause] if case.cause else ExitCode.DONE
    assert (ended.reason, ended.exit_code) == (case.cause, code), ended.message
    assert case.sentence in ended.message
    assert case.cause is None or ended.step == 0
    assert "\n" not in ended.message


def test_the_documented_call_trains_evaluates_saves_answers_and_pushes(
    hub: Hub, tmp_path: Path
) -> None:
    ask = """
        import json
        url = trainer.push_to_hub("username/my-model")
        print(json.dumps([results.step, metrics["train_loss"], str(model_path), answer, url]))
    """
    env = hub.environment(tmp_path / "home", WRITER)
    step, loss, model, answer, url = python(SNIPPET + textwrap.dedent(ask), cwd=tmp_path, env=env)
    assert step == 8
    assert 0 < loss < 10
    assert isinstance(answer, str)
    assert url == f"{hub.endpoint}/username/my-model"
    repo = hub.repos["model", "username/my-model"]
    assert repo.private
    saved = {path.name: path.read_bytes() for path in (tmp_path / model).iterdir()}
    assert repo.at("main").files == saved
    card = saved["README.md"].decode()
    for name in (("model", LLAMA), ("dataset", ALPACA)):
        assert hub.repos[name].commits[-1].sha in card


def test_of_several_processes_one_uploads_and_all_know_where(
    hub: Hub, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    program = f"""
from aligntune.core.backend_factory import create_sft_trainer
trainer = create_sft_trainer(model_name={str(tiny_model)!r}, dataset_name={str(tiny_data)!r})
trainer.setup_model()
print(trainer.push_to_hub("username/together"))
"""
    env = hub.environment(tmp_path / "home", WRITER)
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env=env | more,
            stdout=subprocess.PIPE,
            text=True,
        )
        for more in rank_environments(2)
    ]
    told = [rank.communicate(timeout=300)[0].splitlines()[-1] for rank in ranks]
    assert told == [f"{hub.endpoint}/username/together"] * 2
    assert sum("username/together/preupload" in request for request in hub.requests) == 1


def test_the_documented_call_of_dpo_trains_evaluates_saves_and_pushes(
    hub: Hub, tmp_path: Path
) -> None:
    tell = """
        import json
        print(json.dumps([results.step, metrics, str(model_path), url]))
    """
    env = hub.environment(tmp_path / "home", WRITER)
    done = run(["-c", DPO_SNIPPET + textwrap.dedent(tell)], cwd=tmp_path, env=env)
    step, metrics, model, url = json.loads(done.stdout.splitlines()[-1])
    assert step == 8
    assert 0 < metrics["train_loss"] < 1
    assert metrics["train_reward_accuracy"] >= 0.5
    assert url == f"{hub.endpoint}/username/my-model"
    saved = {path.name: path.read_bytes() for path in (tmp_path / model).iterdir()}
    assert hub.repos["model", "username/my-model"].at("main").files == saved
    assert saved["chat_template.jinja"].decode() == PLAIN_CHAT_TEMPLATE


@pytest.fixture
def moved_on(hub: Hub, tiny_model: Path, tmp_path: Path) -> dict[str, str]:
    """A model and a data set whose main has moved on, and the commits before that."""
    commits = {
        "acme/base": hub.add("model", "acme/base", tiny_model),
        "acme/rows": hub.add("dataset", "acme/rows", alpaca(tmp_path / "before", rows=24)),
    }
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    hub.add("model", "acme/base", tmp_path / "broken")
    hub.add("dataset", "acme/rows", alpaca(tmp_path / "after", rows=8))
    return commits


def test_a_job_trains_pinned_commits_and_its_model_arrives_on_the_hub(
    hub: Hub, moved_on: dict[str, str], tmp_path: Path
) -> None:
    base, rows = moved_on.items()
    job = {
        "apiVersion": "aligntune.io/v1alpha1",
        "kind": "AlignTuneJob",
        "metadata": {"name": "pinned"},
        "spec": {
            "sft": {
                "model": dict(zip(("name", "revision"), base, strict=True)),
                "datasets": [dict(zip(("name", "revision"), rows, strict=True))],
            },
            "runtime": {"gpusPerNode": 0},
            "storage": {"claimName": "output"},
            "hub": {
                "tokenSecret": {"name": "hf", "key": "token"},
                "push": {"repoId": "username/support-bot"},
            },
        },
    }
    YAML().dump(job, tmp_path / "job.yaml")
    env = hub.environment(tmp_path / "home", WRITER)
    done = run(["-m", "aligntune", "run", "job.yaml"], cwd=tmp_path, env=env)
    status = YAML(typ="safe").load(done.stdout)["status"]
    assert status["phase"] == "Succeeded"
    assert status["model"]["url"] == f"{hub.endpoint}/username/support-bot"
    card = hub.repos["model", "username/support-bot"].at("main").files["README.md"].decode()
    assert f"`acme/base` at {base[1]}" in card
    assert "| acme/rows | alpaca | 24 |" in card
    assert rows[1] in card

    load = """
        import json
        from peft import AutoPeftModelForCausalLM
        from transformers import AutoTokenizer
        model = AutoPeftModelForCausalLM.from_pretrained("username/support-bot")
        tokenizer = AutoTokenizer.from_pretrained("username/support-bot")
        adapters = model.peft_config["default"]
        base = adapters.base_model_name_or_path, adapters.revision
        print(json.dumps([*base, tokenizer.chat_template]))
    """
    name, revision, template = python(
        load, cwd=tmp_path, env=hub.environment(tmp_path / "elsewhere", WRITER)
    )
    assert (name, revision) == base
    assert "<|im_start|>" in template


PROBE = list(range(5, 25))
FROM_ADAPTERS = f"""
    import json, sys
    import torch
    from aligntune.backends.trl.rl.dpo.dpo import TRLDPOTrainer
    from aligntune.core.config.model import ModelRef
    from aligntune.core.rl.config import UnifiedConfig
    from aligntune.rewards.model import RewardModel
    from aligntune.rewards.scoring import Batch
    named = {{"name": "acme/adapters", "revision": sys.argv[1]}}
    trainer = TRLDPOTrainer(UnifiedConfig.model_validate({{
        "algo": "dpo", "model": named, "reference_model": named, "output_dir": "out",
        "datasets": [{{"name": sys.argv[2]}}], "train": {{"max_steps": 1}},
    }}))
    loop = trainer.ensure_loop()
    read = lambda model: model.eval()(input_ids=torch.tensor([{PROBE}])).logits[0, -1].tolist()
    judge = RewardModel(ModelRef(name="acme/judge"), "fp32")
    answers = Batch([[{{"role": "user", "content": "What is 1 plus 1?"}}]], ["It is 2."], {{}})
    with torch.no_grad():
        told = {{"policy": read(trainer.model), "reference": read(loop.ref_model)}}
    told["score"] = judge(answers)
    trainer.train()
    told["card"] = (trainer.save_model() / "README.md").read_text()
    print(json.dumps(told))
"""


def tuned(base: Path, folder: Path, task: Literal["CAUSAL_LM", "SEQ_CLS"]) -> Any:
    """A model whose adapters differ from its base's weights, and are saved in `folder`."""
    heads = {"CAUSAL_LM": AutoModelForCausalLM, "SEQ_CLS": AutoModelForSequenceClassification}
    more = {"num_labels": 1} if task == "SEQ_CLS" else {}
    model = heads[task].from_pretrained(base, **more)
    adapted = get_peft_model(model, LoraConfig(task_type=task, target_modules="all-linear"))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                weight.normal_(std=0.1)
    adapted.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return adapted.eval()


class AdaptersOnHub(NamedTuple):
    """What trained models say, and what a run says that names their adapters on the hub."""

    commit: str
    policy: list[float]
    score: float
    told: dict[str, Any]


@pytest.fixture(scope="module")
def adapters_on_hub(
    hub: Hub, tiny_model: Path, tiny_pairs: Path, tmp_path_factory: pytest.TempPathFactory
) -> AdaptersOnHub:
    """Adapters at a commit that main has left behind, for a base at such a one."""
    folder = tmp_path_factory.mktemp("adapters")
    base = hub.add("model", "acme/adapted", tiny_model)
    models = {
        "acme/adapters": tuned(tiny_model, folder / "policy", "CAUSAL_LM"),
        "acme/judge": tuned(tiny_model, folder / "judge", "SEQ_CLS"),
    }
    commits = {}
    for name, saved in zip(models, ("policy", "judge"), strict=True):
        file = folder / saved / "adapter_config.json"
        at = {"base_model_name_or_path": "acme/adapted", "revision": base}
        file.write_text(json.dumps(json.loads(file.read_text()) | at))
        commits[name] = hub.add("model", name, folder / saved)
    (folder / "broken").mkdir()
    (folder / "broken" / "config.json").write_text("{}")
    hub.add("model", "acme/adapted", folder / "broken")
    (folder / "broken" / "adapter_config.json").write_text("{}")
    hub.add("model", "acme/adapters", folder / "broken")
    text = AutoTokenizer.from_pretrained(tiny_model).apply_chat_template(
        [
            {"role": "user", "content": "What is 1 plus 1?"},
            {"role": "assistant", "content": "It is 2."},
        ],
        return_tensors="pt",
        return_dict=False,
    )
    with torch.no_grad():
        policy = models["acme/adapters"](input_ids=torch.tensor([PROBE])).logits[0, -1].tolist()
        score = models["acme/judge"](input_ids=text).logits.item()
    script = folder / "run.py"
    script.write_text(textwrap.dedent(FROM_ADAPTERS))
    env = hub.environment(folder / "home")
    done = run([script, commits["acme/adapters"], tiny_pairs], cwd=folder, env=env)
    told = json.loads(done.stdout.splitlines()[-1])
    return AdaptersOnHub(commits["acme/adapters"], policy, score, told)


@pytest.mark.parametrize("model", ["policy", "reference"])
def test_adapters_on_the_hub_are_what_a_run_begins_at(
    adapters_on_hub: AdaptersOnHub, model: str
) -> None:
    assert adapters_on_hub.told[model] == pytest.approx(adapters_on_hub.policy, abs=1e-4)


def test_adapters_on_the_hub_can_be_the_reward_model(adapters_on_hub: AdaptersOnHub) -> None:
    assert adapters_on_hub.told["score"] == [pytest.approx(adapters_on_hub.score, rel=1e-4)]


def test_the_card_names_the_commit_of_adapters_on_the_hub(adapters_on_hub: AdaptersOnHub) -> None:
    assert f"`acme/adapters` at {adapters_on_hub.commit}" in adapters_on_hub.told["card"]


OTHER_DATA = {"datasets": [{"name": "nobody/nothing"}]}
GATED_DATA = {"model": {"name": DIALOGPT}, "datasets": [{"name": "acme/gated"}]}
PUSHED = {"model": {"name": DIALOGPT}}
ONLINE = {
    "whole": Case({}),
    "streamed": Case({"datasets": [{"name": ALPACA, "streaming": True}]}),
    "unknown model": Case(
        {"model": {"name": "nobody/nothing"}},
        READER,
        Cause.MODEL_NOT_FOUND,
        "model.name 'nobody/nothing': the hub has no such model for this token; check the name",
    ),
    "unknown model, no token": Case(
        {"model": {"name": "nobody/nothing"}},
        None,
        Cause.MODEL_NOT_FOUND,
        "the hub has no such model; check the name; for a private one set HF_TOKEN",
    ),
    "unknown revision": Case(
        {"model": {"name": LLAMA, "revision": "v9"}},
        READER,
        Cause.MODEL_NOT_FOUND,
        f"model.revision 'v9': {LLAMA} has no such revision",
    ),
    "no name": Case(
        {"model": {"name": "--"}},
        READER,
        Cause.MODEL_NOT_FOUND,
        "model.name '--': this is neither a folder nor a name",
    ),
    "gated model": Case(
        {},
        STRANGER,
        Cause.UNAUTHORIZED,
        f"model.name {LLAMA!r}: it is gated, and not open to this token; ask on its page",
    ),
    "gated model, no token": Case(
        {},
        None,
        Cause.UNAUTHORIZED,
        f"model.name {LLAMA!r}: it is gated; ask for access on its page, and set HF_TOKEN"
        " (in a manifest: hub.tokenSecret)",
    ),
    "invalid token": Case(
        {},
        "hf_revoked",
        Cause.UNAUTHORIZED,
        f"model.name {LLAMA!r}: the hub refuses the token (401); make a new one",
    ),
    "invalid token, data": Case(
        {"model": {"name": "./tiny"}},
        "hf_revoked",
        Cause.UNAUTHORIZED,
        f"datasets[0].name {ALPACA!r}: the hub refuses the token (401); make a new one",
    ),
    "unknown data": Case(
        OTHER_DATA,
        READER,
        Cause.MODEL_NOT_FOUND,
        "datasets[0].name 'nobody/nothing': the hub has no such data set for this token",
    ),
    "unknown data, no token": Case(
        PUSHED | OTHER_DATA,
        None,
        Cause.MODEL_NOT_FOUND,
        "the hub has no such data set; check the name; for a private one set HF_TOKEN",
    ),
    "unknown revision of data": Case(
        {"datasets": [{"name": ALPACA, "revision": "v9"}]},
        READER,
        Cause.MODEL_NOT_FOUND,
        f"datasets[0].revision 'v9': {ALPACA} has no such revision",
    ),
    "gated data": Case(
        GATED_DATA,
        STRANGER,
        Cause.UNAUTHORIZED,
        "datasets[0].name 'acme/gated': it is gated, and not open to this token; ask on its page",
    ),
    "gated data, no token": Case(
        GATED_DATA,
        None,
        Cause.UNAUTHORIZED,
        "datasets[0].name 'acme/gated': it is gated; ask for access on its page, and set HF_TOKEN",
    ),
    "push without the right": Case(
        PUSHED,
        READER,
        Cause.UNAUTHORIZED,
        "hub: the token may not write to username/new; use one with write access",
        push="username/new",
    ),
    "push to others": Case(
        PUSHED,
        WRITER,
        Cause.UNAUTHORIZED,
        "hub: the token may not write to acme/new; use one with write access",
        push="acme/new",
    ),
    "push without a token": Case(
        PUSHED,
        None,
        Cause.UNAUTHORIZED,
        "hub: the token may not write to username/new; set HF_TOKEN",
        push="username/new",
    ),
    "push with an unknown token": Case(
        PUSHED,
        "hf_unknown",
        Cause.UNAUTHORIZED,
        "hub: the token may not write to username/new; use one with write access",
        push="username/new",
    ),
    "push to no name": Case(
        PUSHED,
        WRITER,
        Cause.CONFIG_ERROR,
        "push.repoId: must match pattern",
        push="a/b/c",
    ),
}
"""What a hub that answers says, and what becomes of it."""

NOT_CACHED = "is not in the cache, and HF_HUB_OFFLINE forbids to ask the hub"
OFFLINE = {
    "cached": Case({}),
    "model": Case(
        {"model": {"name": "acme/other"}},
        cause=Cause.MODEL_NOT_FOUND,
        sentence=f"model.name 'acme/other': main {NOT_CACHED}",
    ),
    "revision": Case(
        {"model": {"name": LLAMA, "revision": "f" * 40}},
        cause=Cause.MODEL_NOT_FOUND,
        sentence=f"model.name {LLAMA!r}: {'f' * 40} {NOT_CACHED}",
    ),
    "data": Case(
        OTHER_DATA,
        cause=Cause.MODEL_NOT_FOUND,
        sentence=f"datasets[0].name 'nobody/nothing': main {NOT_CACHED}",
    ),
    "revision of data": Case(
        {"datasets": [{"name": ALPACA, "revision": "f" * 40}]},
        cause=Cause.MODEL_NOT_FOUND,
        sentence=f"datasets[0].name {ALPACA!r}: {'f' * 40} {NOT_CACHED}",
    ),
}
"""The same with HF_HUB_OFFLINE=1, after the above."""

UNREACHABLE = {
    "1 model": Case(
        {"model": {"name": "acme/other"}},
        cause=Cause.HUB_UNREACHABLE,
        sentence="model.name 'acme/other': main is not in the cache, and the hub at {endpoint}"
        " cannot be reached ([Errno 111] Connection refused): use a folder, or look at the network",
    ),
    "2 data": Case(
        OTHER_DATA,
        cause=Cause.HUB_UNREACHABLE,
        sentence="datasets[0].name 'nobody/nothing': main is not in the cache, and the hub at",
    ),
    "3 cached": Case({}),
}
"""The same where connections are refused."""


@pytest.fixture(scope="module")
def online(hub: Hub, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of all runs in `ONLINE`, and their cache in `home`."""
    folder = tmp_path_factory.mktemp("online")
    (folder / "tiny").symlink_to(tiny_model)
    log = train_all(ONLINE, folder / "runs", hub.environment(folder / "home"))
    assert "Traceback" not in log
    return folder


@pytest.fixture(scope="module")
def offline(hub: Hub, online: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("offline") / "runs"
    env = hub.environment(online / "home", HF_HUB_OFFLINE="1")
    asked = len(hub.requests)
    log = train_all(OFFLINE, runs, env)
    assert "Traceback" not in log
    assert len(hub.requests) == asked
    return runs


@pytest.mark.parametrize("name", ONLINE)
def test_the_hubs_answers_are_told_in_a_sentence(online: Path, name: str) -> None:
    check(ONLINE[name], outcome(online / "runs" / name))


@pytest.mark.parametrize("name", OFFLINE)
def test_offline_the_cache_is_used_or_the_sentence_says_what_it_lacks(
    offline: Path, name: str
) -> None:
    check(OFFLINE[name], outcome(offline / name))


def test_a_hub_that_cannot_be_reached_costs_seconds(online: Path, tmp_path: Path) -> None:
    nowhere = Hub()
    with nowhere:
        pass
    env = nowhere.environment(online / "home")
    log = train_all(UNREACHABLE, tmp_path / "runs", env)
    assert "Traceback" not in log
    retries = [line for line in log.splitlines() if "WARNING Retrying" in line]
    assert [line[-5:-2] for line in retries] == ["1/2", "2/2"], "once in a process"
    for name, case in UNREACHABLE.items():
        wanted = case._replace(sentence=case.sentence.format(endpoint=nowhere.endpoint))
        check(wanted, outcome(tmp_path / "runs" / name))


@pytest.fixture
def reach(monkeypatch: pytest.MonkeyPatch) -> Callable[[Hub], None]:
    """Lets this process talk to a hub, which tests are kept from otherwise."""

    def point_at(hub: Hub) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)

    return point_at


def test_a_hub_that_comes_up_late_is_waited_for(
    reach: Callable[[Hub], None], caplog: pytest.LogCaptureFixture
) -> None:
    with Hub() as hub:
        reach(hub)
    with ThreadPoolExecutor() as threads:
        answer = threads.submit(answers, patience=5)
        wait_until("it asks again", lambda: "Retrying" in caplog.text, pause_seconds=0.01)
        with hub:
            assert answer.result(30)


def test_a_model_without_an_owner_goes_to_that_of_the_token(
    hub: Hub, reach: Callable[[Hub], None], tmp_path: Path
) -> None:
    reach(hub)
    # Weights of its own: a hub is not sent a second time what it has.
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    url = push(tmp_path, "ownerless", private=True, token=WRITER, commit_message="Upload")
    assert url == f"{hub.endpoint}/username/ownerless"
    assert "model.safetensors" in hub.repos["model", "username/ownerless"].at("main").files


def test_weights_that_do_not_arrive_are_a_failed_push(
    hub: Hub, reach: Callable[[Hub], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reach(hub)
    monkeypatch.setattr(hub, "full", True)
    (tmp_path / "model.safetensors").write_bytes(b"weights that no hub has")
    with pytest.raises(HubPushError) as failed:
        push(tmp_path, "username/large", private=True, token=WRITER, commit_message="Upload")
    assert str(failed.value).startswith("hub: pushing to username/large failed: ")
    assert "over quota" in str(failed.value)
    assert "\n" not in str(failed.value)
