"""Text classification, end to end on a tiny model: labels, loss, report, prediction, ranks."""

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from datasets import ClassLabel, Dataset, Features, Value
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from sklearn.utils.class_weight import compute_class_weight
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    pipeline,
    set_seed,
)

from aligntune.api.exit_codes import ExitCode
from aligntune.backends.trl.sft.classification import ClassificationTrainer, Classified, balanced
from aligntune.core.backend_factory import create_sft_trainer
from aligntune.core.config.data import ColumnsConfig
from aligntune.core.errors import ConfigError, DataError, LossDivergedError
from aligntune.core.sft.config import SFTConfig
from aligntune.data.classes import CLASSES, Labelled, discover
from aligntune.data.shapes import recognise
from aligntune.data.split import stratified
from aligntune.training.class_report import class_report
from tests.trainers.callbacks import StopAt, asked_to_stop_in_evaluation
from tests.trainers.tiny import (
    MakeConfig,
    curve,
    launch,
    losses,
    merge,
    wait_for_step,
    write_jsonl,
    write_run,
)

LABELS = ["answer", "greeting", "sum"]


def remarks(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Texts of three classes, of which `greeting` is rare."""
    chance = random.Random(seed)
    rows = []
    for _ in range(count):
        one, other = chance.randint(0, 9), chance.randint(0, 9)
        text, label = chance.choices(
            [
                (f"What is {one} plus {other}?", "sum"),
                (f"It is {one}.", "answer"),
                ("What is it?" + "?" * one, "greeting"),
            ],
            [6, 3, 1],
        )[0]
        rows.append({"text": text, "label": label})
    return rows


@pytest.fixture
def classify(config: MakeConfig, tmp_path: Path) -> MakeConfig:
    """Makes a config of a quick run on 64 remarks."""
    data = write_jsonl(tmp_path / "remarks.jsonl", remarks(64))

    def make(**sections: Any) -> SFTConfig:
        base = {"task": "text_classification", "datasets": [{"name": str(data)}]}
        return config(**merge(base, sections))

    return make


def test_the_loss_falls_and_held_out_rows_get_their_class(classify: MakeConfig) -> None:
    settings = classify(
        train={"max_steps": 40, "learning_rate": 1e-2}, evaluation={"split_ratio": 0.25}
    )
    trainer = create_sft_trainer(config=settings, backend="trl")
    assert isinstance(trainer, ClassificationTrainer)
    result = trainer.train()
    metrics = trainer.evaluate()
    seen = losses(Path(settings.output_dir))
    assert sum(seen[-5:]) < 0.3 * sum(seen[:5])
    assert metrics.keys() == {"eval_loss", "eval_accuracy", "eval_macro_f1"}
    assert metrics["eval_accuracy"] > 0.9
    assert result.samples == 160
    assert 300 < result.tokens < 160 * 20


def test_the_report_tells_each_class_and_draws_the_confusion(
    classify: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    settings = classify(evaluation={"split_ratio": 0.25})
    trainer = ClassificationTrainer(settings)
    with caplog.at_level("INFO"):
        metrics = trainer.evaluate()
    folder = Path(settings.output_dir) / "evaluation"
    report = json.loads((folder / "report.json").read_text())
    assert list(report["classes"]) == LABELS
    assert report["macro_f1"] == metrics["eval_macro_f1"]
    supports = [score["support"] for score in report["classes"].values()]
    assert [sum(row) for row in report["confusion"]] == supports
    assert sum(supports) == 16
    diagonal = sum(report["confusion"][i][i] for i in range(3))
    assert metrics["eval_accuracy"] == pytest.approx(diagonal / 16)
    assert "greeting" in caplog.text.partition("precision")[2]
    with Image.open(folder / "confusion.png") as picture:
        assert min(picture.size) > 200


def test_a_picture_of_77_classes_is_large_enough_to_read(tmp_path: Path) -> None:
    labels = [f"card_payment_question_{n}" for n in range(77)]
    ids = np.arange(770) % 77
    report = class_report(labels, ids, np.where(ids % 7 == 0, (ids + 1) % 77, ids))
    report.write(tmp_path)
    assert report.accuracy == pytest.approx(1 - 11 / 77)
    with Image.open(tmp_path / "confusion.png") as picture:
        assert 2000 < min(picture.size) < 4000


def test_macro_f1_leaves_out_classes_that_do_not_occur() -> None:
    report = class_report(["a", "b", "c"], np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]))
    assert report.macro_f1 == pytest.approx((2 / 3 + 0.8) / 2)
    assert report.classes["c"] == (0.0, 0.0, 0.0, 0)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_losses_are_those_of_a_plain_transformers_script(
    classify: MakeConfig, tiny_model: Path, tmp_path: Path, tuning: str
) -> None:
    settings = classify(model={"tuning": tuning})
    ClassificationTrainer(settings).train()

    set_seed(42)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=3)
    set_seed(42)
    if tuning == "lora":
        adapters = LoraConfig(task_type="SEQ_CLS", r=16, lora_alpha=32, target_modules="all-linear")
        model = get_peft_model(model, adapters)
    rows = [
        {"input_ids": tokenizer(row["text"])["input_ids"], "labels": LABELS.index(row["label"])}
        for row in remarks(64)
    ]
    script = transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(
            output_dir=str(tmp_path / "script"),
            max_steps=10,
            per_device_train_batch_size=4,
            learning_rate=1e-3,
            logging_steps=1,
            save_strategy="no",
            use_cpu=True,
            dataloader_pin_memory=False,
            report_to="none",
            label_names=["labels"],
            optim="adamw_torch",
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    script.train()
    logged = [line["loss"] for line in script.state.log_history if "grad_norm" in line]
    assert losses(Path(settings.output_dir)) == pytest.approx(logged, abs=1e-4)  # it rounds


def test_weighted_loss_is_torchs_over_the_whole_batch_however_it_is_cut(
    classify: MakeConfig,
) -> None:
    weighted = classify(
        model={"tuning": "full"},
        train={"per_device_batch_size": 64, "max_steps": 3},
        classification={"class_weights": "balanced"},
        output_dir=classify().output_dir + "-whole",
    )
    trainer = ClassificationTrainer(weighted)
    loop = trainer.ensure_loop()
    rows = trainer.tokenizer.pad(loop.train_dataset[:], return_tensors="pt")
    labels = rows.pop("labels")
    weights = torch.tensor(balanced(labels.tolist(), LABELS))
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(loop.model(**rows).logits, labels, weights)
    trainer.train()
    whole = losses(Path(weighted.output_dir))
    assert whole[0] == pytest.approx(expected.item(), rel=1e-5)

    parts = {"per_device_batch_size": 4, "gradient_accumulation_steps": 16, "max_steps": 3}
    cut = classify(
        model={"tuning": "full"}, train=parts, classification={"class_weights": "balanced"}
    )
    ClassificationTrainer(cut).train()
    assert losses(Path(cut.output_dir)) == pytest.approx(whole, rel=1e-4)


def test_balanced_weights_are_scikit_learns_and_need_a_row_of_each_class() -> None:
    ids = [0, 0, 0, 1, 2, 2]
    expected = compute_class_weight("balanced", classes=np.arange(3), y=np.array(ids))
    weights = balanced(ids, ["a", "b", "c"])
    assert weights == pytest.approx(expected.tolist())
    assert sum(weights[number] for number in ids) / len(ids) == pytest.approx(1)
    with pytest.raises(ConfigError, match="class 'd' has no training row"):
        balanced(ids, ["a", "b", "c", "d"])


def test_two_ranks_train_and_measure_as_one_process_and_resume_exactly(
    classify: MakeConfig, tmp_path: Path
) -> None:
    """SIGTERM reaches one rank only; 13 held-out rows do not divide by two, 52 others by four."""
    rows = write_jsonl(tmp_path / "rows.jsonl", remarks(65))
    sections: dict[str, Any] = {
        "datasets": [{"name": str(rows)}],
        "evaluation": {"split_ratio": 0.2},
        "classification": {"class_weights": "balanced"},
    }
    whole = classify(**sections, train={"max_steps": 40, "per_device_batch_size": 2})
    parts = whole.model_copy(update={"output_dir": whole.output_dir + "-parts"})
    complete = write_run(tmp_path / "whole.json", whole, processesPerNode=2)
    assert [rank.wait() for rank in launch(complete, tmp_path, 2)] == [0, 0]

    run = write_run(tmp_path / "parts.json", parts, processesPerNode=2)
    ranks = launch(run, tmp_path, 2)
    wait_for_step(Path(parts.output_dir), 7)
    ranks[1].terminate()
    assert [rank.wait() for rank in ranks] == [ExitCode.PREEMPTED, ExitCode.PREEMPTED]
    assert [rank.wait() for rank in launch(run, tmp_path, 2)] == [0, 0]
    assert curve(Path(parts.output_dir)) == curve(Path(whole.output_dir))

    one = classify(**sections, train={"max_steps": 40}, output_dir=whole.output_dir + "-one")
    trainer = ClassificationTrainer(one)
    trainer.train()
    trainer.evaluate()
    assert losses(Path(whole.output_dir)) == pytest.approx(losses(Path(one.output_dir)), rel=1e-3)
    reports = [
        json.loads((Path(config.output_dir) / "evaluation" / "report.json").read_text())
        for config in (whole, one)
    ]
    assert reports[0] == reports[1]
    assert sum(map(sum, reports[0]["confusion"])) == 13


def test_a_run_stopped_by_sigterm_goes_on_exactly_with_head_and_adapters(
    classify: MakeConfig,
) -> None:
    dropout = {"lora": {"dropout": 0.2}}
    whole = classify(model=dropout, output_dir=classify().output_dir + "-whole")
    ClassificationTrainer(whole).train()
    parts = classify(model=dropout)
    assert ClassificationTrainer(parts, callbacks=[StopAt(7)]).train().preempted
    assert ClassificationTrainer(parts).train().step == 10
    assert curve(Path(parts.output_dir)) == curve(Path(whole.output_dir))


def test_a_run_asked_to_stop_while_it_evaluates_stops_there(classify: MakeConfig) -> None:
    settings = classify(evaluation={"split_ratio": 0.2, "every_steps": 4})
    stopped = ClassificationTrainer(settings, asked_to_stop_in_evaluation()).train()
    assert (stopped.preempted, stopped.step) == (True, 4)


def test_a_checkpoint_of_other_classes_is_refused(classify: MakeConfig, tmp_path: Path) -> None:
    ClassificationTrainer(classify()).train()
    other = [*remarks(64), {"text": "What?", "label": "question"}]
    write_jsonl(tmp_path / "remarks.jsonl", other)
    with pytest.raises(ConfigError, match=r"classification\.labels was \['answer'"):
        ClassificationTrainer(classify()).train()


def test_the_best_evaluations_head_is_kept_too(classify: MakeConfig) -> None:
    settings = classify(
        train={"max_steps": 12, "learning_rate": 0.3, "lr_scheduler": "constant"},
        evaluation={"split_ratio": 0.2, "every_steps": 2, "keep_best": True},
    )
    trainer = ClassificationTrainer(settings)
    result = trainer.train()
    last = [line for line in trainer.ensure_loop().state.log_history if "eval_loss" in line][-1]
    assert result.best_metric is not None
    assert result.best_metric < last["eval_loss"]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(result.best_metric, rel=1e-5)


def test_a_diverged_loss_ends_the_run(classify: MakeConfig) -> None:
    settings = classify(
        model={"tuning": "full"},
        train={"learning_rate": 10, "max_grad_norm": 1e6, "max_steps": 60, "optimizer": "sgd"},
    )
    with pytest.raises(LossDivergedError):
        ClassificationTrainer(settings).train()


def test_what_is_saved_classifies_batches_alike_with_plain_libraries(
    classify: MakeConfig, tiny_model: Path
) -> None:
    trainer = ClassificationTrainer(classify(train={"max_steps": 30, "learning_rate": 1e-2}))
    trainer.train()
    texts = ["It is 3.", "What is 1 plus 2?", "What is it????"]
    ours = trainer.predict(texts)
    assert [one.label for one in ours] == ["answer", "sum", "greeting"]

    adapters = trainer.save_model()
    tokenizer = AutoTokenizer.from_pretrained(adapters)
    base = AutoModelForSequenceClassification.from_pretrained(
        tiny_model, config=AutoConfig.from_pretrained(adapters)
    )
    loaded = PeftModel.from_pretrained(base, adapters)
    assert _same(pipeline("text-classification", loaded, tokenizer=tokenizer), texts, ours, 1e-5)
    merged = trainer.save_model(adapters.with_name("merged"), merge=True)
    assert AutoConfig.from_pretrained(merged).label2id == {"answer": 0, "greeting": 1, "sum": 2}
    assert _same(pipeline("text-classification", str(merged)), texts, ours, 0.02)  # 16 bits
    card = (merged / "README.md").read_text()
    assert "eval_macro_f1" not in card  # nothing was held out
    assert '"greeting"' in card


def _same(classifier: Any, texts: list[str], ours: list[Classified], tolerance: float) -> bool:
    theirs = classifier(texts, batch_size=3)
    return all(
        (one["label"], one["score"]) == (other.label, pytest.approx(other.score, abs=tolerance))
        for one, other in zip(theirs, ours, strict=True)
    )


def test_full_tuning_saves_a_model_that_plain_transformers_loads(classify: MakeConfig) -> None:
    trainer = ClassificationTrainer(classify(model={"tuning": "full"}))
    trainer.train()
    folder = trainer.save_model()
    [theirs] = pipeline("text-classification", str(folder))("It is 3.")
    ours = trainer.predict("It is 3.")
    assert (theirs["label"], theirs["score"]) == (ours.label, pytest.approx(ours.score, abs=1e-5))


def test_predict_gives_label_score_and_all_scores(classify: MakeConfig) -> None:
    trainer = ClassificationTrainer(classify(model={"max_length": 16}))
    one = trainer.predict("It is 3.")
    assert list(one.scores) == LABELS
    assert sum(one.scores.values()) == pytest.approx(1)
    assert one.score == one.scores[one.label] == max(one.scores.values())
    several = trainer.predict(["What is 1 plus 2, and what is 3?", "It is 3."] * 5)
    assert len(several) == 10
    assert several[1].scores == pytest.approx(one.scores, abs=1e-6)  # padding changes nothing
    long = "What is 1 plus 2? " * 40
    assert trainer.predict(long).scores == pytest.approx(trainer.predict(long * 2).scores)
    with pytest.raises(ConfigError, match="an empty text has no class"):
        trainer.predict(["It is 3.", " "])


@pytest.mark.parametrize(
    ("row", "shape", "example"),
    [
        ({"text": "t", "label": 1}, "text-label", ("t", "1")),
        ({"text": "t", "label": 1, "label_text": "joy"}, "text-label_text", ("t", "joy")),
        ({"sentence": "t", "label": "pos", "idx": 3}, "sentence-label", ("t", "pos")),
        ({"title": "x", "content": "t", "label": 2.0}, "content-label", ("t", "2")),
        ({"text": "t", "intent": "buy"}, "text-intent", ("t", "buy")),
        ({"text": "t", "category": "tech"}, "text-category", ("t", "tech")),
        ({"text": "t", "topic": " tech "}, "text-topic", ("t", "tech")),
        ({"text": "t", "sentiment": None}, "text-sentiment", ("t", "")),
        ({"text": 5, "label": math.nan}, "text-label", ("5", "")),
    ],
)
def test_public_layouts_of_labelled_texts_are_recognised(
    row: dict[str, Any], shape: str, example: tuple[str, str]
) -> None:
    recognised = recognise(row, None, CLASSES, "datasets[0]")
    assert (recognised.shape.name, recognised.example(row)) == (shape, Labelled(*example))


def test_columns_name_text_and_label_where_names_do_not_tell() -> None:
    found = ["utt", "coarse", "fine"]
    with pytest.raises(DataError, match=r"Accepted are text-label_text: text \+ label_text; text-"):
        recognise(found, None, CLASSES, "datasets[0]")
    columns = ColumnsConfig(text="utt", label="fine")
    recognised = recognise(found, columns, CLASSES, "datasets[0]")
    assert recognised.columns == {"text": "utt", "label": "fine"}
    with pytest.raises(DataError, match="fit both text-intent and text-topic; say which"):
        recognise(["text", "intent", "topic"], None, CLASSES, "datasets[0]")


@pytest.mark.parametrize(
    ("ending", "rows", "labels"),
    [
        ("csv", "text,label\na,01\nb,02\n", ["01", "02"]),
        ("csv", "text,label\na,10\nb,9\n", ["9", "10"]),
        ("csv", "text,label\na,true\nb,false\n", ["false", "true"]),
        (
            "jsonl",
            '{"text": "a", "label": true}\n{"text": "b", "label": false}\n',
            ["false", "true"],
        ),
    ],
)
def test_labels_are_named_as_the_file_writes_them(
    classify: MakeConfig, tmp_path: Path, ending: str, rows: str, labels: list[str]
) -> None:
    (tmp_path / f"rows.{ending}").write_text(rows)
    settings = classify(datasets=[{"name": str(tmp_path / f"rows.{ending}")}])
    assert discover(settings) == labels


def test_labels_are_discovered_in_all_sources_and_sorted(
    classify: MakeConfig, tmp_path: Path
) -> None:
    names = {}
    for name, labels in {"one": ["b", "10"], "two": ["a", "9"], "held": ["c"]}.items():
        rows = [{"text": f"{label} is", "label": label} for label in labels]
        names[name] = str(write_jsonl(tmp_path / f"{name}.jsonl", rows))
    settings = classify(
        datasets=[{"name": names["one"]}, {"name": names["two"]}],
        evaluation={"datasets": [{"name": names["held"]}]},
    )
    assert discover(settings) == ["9", "10", "a", "b", "c"]
    given = classify(classification={"labels": ["sum", "greeting", "answer"]})
    trainer = ClassificationTrainer(given)
    trainer.setup()
    assert trainer.model.config.id2label == {0: "sum", 1: "greeting", 2: "answer"}
    assert trainer.data is not None
    first = trainer.data.train[0]["labels"]
    assert ["sum", "greeting", "answer"][first] == remarks(64)[0]["label"]


@pytest.mark.parametrize("streaming", [False, True])
def test_classes_that_are_kept_as_numbers_get_their_names(
    classify: MakeConfig, tmp_path: Path, streaming: bool
) -> None:
    names = Features({"text": Value("string"), "label": ClassLabel(names=["pos", "neg"])})
    rows = {"text": ["It is 1.", "It is 2.", "It is 3."], "label": [1, 0, -1]}  # -1: none
    file = tmp_path / "classes.parquet"
    Dataset.from_dict(rows, features=names).to_parquet(file)
    settings = classify(
        datasets=[{"name": str(file), "streaming": streaming}],
        classification={"labels": ["neg", "pos"]} if streaming else None,
    )
    trainer = ClassificationTrainer(settings)
    trainer.setup()
    assert trainer.labels == ["neg", "pos"]
    assert trainer.data is not None
    assert sorted(row["labels"] for row in trainer.data.train) == [0, 1]
    assert trainer.train().step == 10


def test_what_becomes_of_rows_is_counted_and_shown(
    classify: MakeConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        {"text": "It is 1.", "label": "answer"},
        {"text": "What is " + "1 plus " * 30, "label": "sum"},
        {"text": " ", "label": "sum"},
        {"text": "It is 2.", "label": None},
    ]
    name = str(write_jsonl(tmp_path / "rows.jsonl", rows))
    trainer = ClassificationTrainer(classify(datasets=[{"name": name}], model={"max_length": 8}))
    with caplog.at_level("INFO"):
        trainer.setup()
    assert trainer.data is not None
    [count] = trainer.data.sources
    assert (count.kept, count.truncated, count.dropped) == (2, 1, 2)
    assert max(map(len, trainer.data.train["input_ids"])) == 8
    assert "It is 1. «answer»" in caplog.text


@pytest.mark.parametrize(
    ("labels", "sections", "sentence"),
    [
        (
            ["sum", "answer", "joy"],
            {"classification": {"labels": ["sum", "answer"]}},
            "row 2: label 'joy' is none of the 2 that are known (sum, answer); add it",
        ),
        (["sum", "sum"], {}, "the rows have only one label, 'sum'; at least two are needed"),
        (
            [None, None, None],
            {},
            "datasets: the rows have no label; at least two are needed",
        ),
        (["sum", ["a", "b"]], {}, "row 1: one label per row is needed, a name or a number, got"),
        ([f"text {n}" for n in range(1025)], {}, "column 'label' has more than 1024 different"),
    ],
    ids=["unknown", "one class", "no class", "several labels", "the wrong column"],
)
def test_labels_that_cannot_be_learned_are_a_sentence(
    classify: MakeConfig,
    tmp_path: Path,
    labels: list[Any],
    sections: dict[str, Any],
    sentence: str,
) -> None:
    if any(isinstance(label, list) for label in labels):
        labels = [[label] if isinstance(label, str) else label for label in labels]
        sentence = sentence.replace("row 1", "row 0")
    rows = [{"text": "It is 1.", "label": label} for label in labels]
    name = str(write_jsonl(tmp_path / "rows.jsonl", rows))
    with pytest.raises(DataError) as error:
        ClassificationTrainer(classify(datasets=[{"name": name}], **sections)).setup()
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_evaluating_on_a_file_with_another_class_names_row_and_label(
    classify: MakeConfig, tmp_path: Path
) -> None:
    trainer = ClassificationTrainer(classify())
    good = write_jsonl(tmp_path / "good.jsonl", remarks(5, seed=3))
    assert "eval_accuracy" in trainer.evaluate(str(good))
    bad = write_jsonl(tmp_path / "bad.jsonl", [{"text": "a", "label": "joy"}])
    with pytest.raises(DataError, match="row 0: label 'joy' is none of the 3 that are known"):
        trainer.evaluate(str(bad))
    assert "train_macro_f1" in trainer.evaluate()  # nothing is held out


@given(
    st.lists(st.integers(0, 5), min_size=2, max_size=80),
    st.floats(0.01, 0.99),
    st.integers(0, 9),
)
def test_each_class_gives_its_share_of_held_out_rows(
    classes: list[int], ratio: float, seed: int
) -> None:
    held_out = stratified(classes, ratio, seed)
    assert held_out == sorted(set(held_out))
    assert held_out == stratified(classes, ratio, seed)
    for name in set(classes):
        rows = classes.count(name)
        taken = sum(classes[index] == name for index in held_out)
        assert taken < rows
        assert taken <= ratio * rows + 1
    if len(set(classes)) < len(classes):
        assert held_out


def test_held_out_rows_of_frequent_classes_come_to_the_share() -> None:
    classes = ["a"] * 700 + ["b"] * 250 + ["c"] * 50
    held_out = [classes[index] for index in stratified(classes, 0.1, 0)]
    assert [held_out.count(name) for name in "abc"] == [70, 25, 5]


def test_gradient_checkpointing_changes_no_loss(classify: MakeConfig) -> None:
    plain = classify(output_dir=classify().output_dir + "-plain")
    ClassificationTrainer(plain).train()
    saving = classify(train={"gradient_checkpointing": True})
    ClassificationTrainer(saving).train()
    assert losses(Path(saving.output_dir)) == pytest.approx(losses(Path(plain.output_dir)))


def test_in_16_bits_head_and_adapters_are_trained_in_32(classify: MakeConfig) -> None:
    trainer = ClassificationTrainer(classify(train={"precision": "bf16"}))
    trainer.train()
    model = trainer.model
    assert {weight.dtype for weight in model.parameters() if weight.requires_grad} == {
        torch.float32
    }
    assert model.get_base_model().dtype == torch.bfloat16
    assert trainer.predict("It is 3.").label in LABELS
    assert trainer.evaluate()["train_loss"] > 0


@pytest.fixture
def encoder_model(tmp_path: Path) -> Path:
    """A tiny BERT, whose tokenizer has no end-of-text token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"0123456789", "what", "is", "it", "plus", "?"]
    backend = Tokenizer(models.WordPiece({w: n for n, w in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]"}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, sep_token="[SEP]", **special
    )
    model = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=len(words),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
        )
    )
    folder = tmp_path / "bert"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_encoders_are_trained_and_saved_too(
    classify: MakeConfig, encoder_model: Path, tuning: str
) -> None:
    trainer = ClassificationTrainer(
        classify(model={"name": str(encoder_model), "tuning": tuning}, train={"max_steps": 3})
    )
    trainer.train()
    assert trainer.data is not None
    assert trainer.data.train[0]["input_ids"][-1] == 3  # [SEP]
    saved = trainer.save_model(merge=True)
    [theirs] = pipeline("text-classification", str(saved))("what is it ?")
    ours = trainer.predict("what is it ?")
    assert (theirs["label"], theirs["score"]) == (ours.label, pytest.approx(ours.score, abs=0.02))


def test_a_model_that_cannot_classify_is_a_sentence(classify: MakeConfig, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    AutoTokenizer.from_pretrained(classify().model.name).save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(ConfigError, match="cannot put a head for whole sequences on this kind"):
        ClassificationTrainer(classify(model={"name": str(folder)})).setup()
