"""Does classification learn? Topics of questions, beside TF-IDF with logistic regression.

    python bench/learning_classification.py [SPLITS]

Which of 21 topics of the chatterbot corpus is a question about? Every method learns from the same
questions and is measured on the same others; no question is on both sides, whatever its case.
Prints Markdown; what each method answered is in runs/learning/classification.json.
"""

import json
import random
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import sklearn
from methods import CACHE, MODEL
from records import RECORDS, keep
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline

from aligntune.backends.trl.sft.classification import ClassificationTrainer
from aligntune.core.sft.config import SFTConfig
from aligntune.training.class_report import class_report

DATA = CACHE / "data" / "chatterbot-topics"
OUTPUT = RECORDS / "classification"
TEST_SHARE = 0.25
Row = dict[str, str]


def split(rows: Sequence[Row], seed: int) -> tuple[list[Row], list[Row]]:
    """Rows to learn from and rows to measure on."""
    questions = sorted({row["text"].lower() for row in rows})
    held_out = set(random.Random(seed).sample(questions, round(TEST_SHARE * len(questions))))
    train = [row for row in rows if row["text"].lower() not in held_out]
    return train, [row for row in rows if row["text"].lower() in held_out]


def columns(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    return [row["text"] for row in rows], [row["label"] for row in rows]


def majority(train: list[Row], test: list[Row], _seed: int) -> list[str]:
    model = DummyClassifier(strategy="most_frequent").fit(*columns(train))
    return list(model.predict(columns(test)[0]))


def tfidf(train: list[Row], test: list[Row], seed: int) -> list[str]:
    """Words and pairs of words; the strength of regularisation by cross-validation."""
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        LogisticRegression(max_iter=2000),
    )
    folds = KFold(5, shuffle=True, random_state=seed)
    search = GridSearchCV(model, {"logisticregression__C": [1, 10, 100, 1000]}, cv=folds)
    return list(search.fit(*columns(train)).predict(columns(test)[0]))


def ours(train: list[Row], test: list[Row], seed: int) -> list[str]:
    """The settings of examples/classification-topics.yaml, for half as many epochs."""
    folder = OUTPUT / f"split-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    labels = sorted({row["label"] for row in (*train, *test)})
    data = folder / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in train))
    config = SFTConfig.model_validate(
        {
            "task": "text_classification",
            "model": {"name": str(MODEL), "maxLength": 64},
            "datasets": [{"name": str(data)}],
            "classification": {"labels": labels},
            "train": {
                "epochs": 2,
                "perDeviceBatchSize": 16,
                "learningRate": 5e-4,
                "warmupRatio": 0.1,
                "seed": seed,
            },
            "checkpoint": {"everySteps": 1000, "keep": 1, "resume": "never"},
            "outputDir": str(folder),
        }
    )
    trainer = ClassificationTrainer(config)
    if trainer.train().preempted:
        sys.exit("stopped on request")
    return [answer.label for answer in trainer.predict(columns(test)[0])]


METHODS = {"the most frequent topic": majority, "TF-IDF, logistic regression": tfidf, "LoRA": ours}


def scores(truth: list[str], given: list[str]) -> dict[str, float]:
    labels = sorted({*truth, *given})
    ids = [np.array([labels.index(label) for label in side]) for side in (truth, given)]
    report = class_report(labels, *ids)
    return {"accuracy": report.accuracy, "macro_f1": report.macro_f1}


def main() -> None:
    lines = [
        line
        for name in ("train", "test")
        for line in (DATA / f"{name}.jsonl").read_text().splitlines()
    ]
    rows = [json.loads(line) for line in sorted(lines)]
    results: list[dict[str, Any]] = []
    print("| split | rows: train, test | method | accuracy | macro F1 | seconds |")
    print("|---|---|---|---|---|---|")
    for seed in range(int(sys.argv[1]) if len(sys.argv) > 1 else 2):
        train, test = split(rows, seed)
        truth = columns(test)[1]
        for name, method in METHODS.items():
            began = time.monotonic()
            given = [str(label) for label in method(train, test, seed)]
            seconds = time.monotonic() - began
            score = scores(truth, given)
            results.append({"split": seed, "method": name, "truth": truth, "given": given} | score)
            print(
                f"| {seed} | {len(train)}, {len(test)} | {name} | {score['accuracy']:.3f}"
                f" | {score['macro_f1']:.3f} | {seconds:.0f} |",
                flush=True,
            )
            # all there is so far: a run that is broken off leaves its finished splits
            keep("classification", results, scikit_learn=sklearn.__version__)
    compare(results)


def compare(results: list[dict[str, Any]]) -> None:
    """Means over the splits, and the rows on which the last two methods differ."""
    print("\n| method | mean accuracy | mean macro F1 |\n|---|---|---|")
    right = {}
    for name in METHODS:
        mine = [result for result in results if result["method"] == name]
        means = [np.mean([result[key] for result in mine]) for key in ("accuracy", "macro_f1")]
        print(f"| {name} | {means[0]:.3f} | {means[1]:.3f} |")
        right[name] = np.concatenate([np.array(r["truth"]) == np.array(r["given"]) for r in mine])
    *_, other, last = METHODS
    only_last = int((right[last] & ~right[other]).sum())
    only_other = int((right[other] & ~right[last]).sum())
    print(
        f"\nOf {len(right[last])} answers over all splits, {only_last} are right with {last} alone"
        f" and {only_other} with {other} alone."
    )


if __name__ == "__main__":
    main()
