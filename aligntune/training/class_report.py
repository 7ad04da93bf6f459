"""What a classifier gets right: numbers for each class, as text, as JSON and as a picture."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

Ids = NDArray[np.integer[Any]]

MOST_NAMED = 100
"""Classes that a picture has room to name; of more, every second, third ... is named."""
MOST_COUNTED = 25
"""Classes up to which each cell of a picture shows its count."""


class ClassScore(NamedTuple):
    """One class against all others; all but `support` from 0 to 1, and 0 where undefined."""

    precision: float
    """Share of the rows given this class that have it."""
    recall: float
    """Share of the rows of this class that were given it."""
    f1: float
    """Harmonic mean of the two."""
    support: int
    """Rows of this class."""


class ClassReport(NamedTuple):
    """A classifier measured on labelled rows."""

    classes: dict[str, ClassScore]
    """By label, in the order of the ids."""
    confusion: list[list[int]]
    """Rows of the class (outer) that were given a class (inner)."""
    accuracy: float
    """Share of the rows that were given their class."""
    macro_f1: float
    """Mean F1 of the classes that occur among the rows or were given to one."""

    def table(self) -> str:
        """Readable columns: a line for each class."""
        width = max(len("class"), *map(len, self.classes))
        lines = [f"{'class':<{width}}  precision  recall     f1  support"]
        lines += [
            f"{label:<{width}}  {score.precision:9.3f}  {score.recall:6.3f}  {score.f1:5.3f}"
            f"  {score.support:7d}"
            for label, score in self.classes.items()
        ]
        lines.append(f"accuracy {self.accuracy:.3f}, macro F1 {self.macro_f1:.3f}")
        return "\n".join(lines)

    def write(self, folder: Path) -> None:
        """Write `report.json` and `confusion.png`.

        Raises:
            OSError: The disk is full, or the folder cannot be written.
        """
        document = {
            "accuracy": self.accuracy,
            "macro_f1": self.macro_f1,
            "classes": {label: score._asdict() for label, score in self.classes.items()},
            "confusion": self.confusion,
        }
        (folder / "report.json").write_text(json.dumps(document, indent=1) + "\n", "utf-8")
        draw(list(self.classes), self.confusion, folder / "confusion.png")


def class_report(labels: Sequence[str], truth: Ids, given: Ids) -> ClassReport:
    """Measure the classes that rows were given against those that they have.

    Args:
        labels: The classes' names, in the order of their ids.
        truth: Each row's class, by id; shape (rows,).
        given: The class that each row was given; of the same shape.
    """
    ids = list(range(len(labels)))
    columns = precision_recall_fscore_support(truth, given, labels=ids, zero_division=0.0)
    scores = [
        ClassScore(float(precision), float(recall), float(f1), int(support))
        for precision, recall, f1, support in zip(*columns, strict=True)
    ]
    seen = np.union1d(truth, given)
    return ClassReport(
        dict(zip(labels, scores, strict=True)),
        confusion_matrix(truth, given, labels=ids).tolist(),
        float(np.mean(truth == given)),
        float(np.mean([scores[number].f1 for number in seen])),
    )


def draw(labels: Sequence[str], confusion: Sequence[Sequence[int]], picture: Path) -> None:
    """Save a confusion matrix as a picture; a cell's colour is its share of the row's class.

    Args:
        labels: The classes' names.
        confusion: Rows of each true class (outer) by their predicted class (inner).
        picture: Where it goes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts = np.asarray(confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    number = len(labels)
    inches = min(3 + 0.25 * number, 28)
    named = range(0, number, math.ceil(number / MOST_NAMED))
    size = max(4, min(9, 500 / number))

    figure = Figure(figsize=(inches + 1, inches), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(named, [labels[i] for i in named], rotation=90, fontsize=size)
    axes.set_yticks(named, [labels[i] for i in named], fontsize=size)
    axes.set(xlabel="predicted class", ylabel="true class")
    if number <= MOST_COUNTED:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "black"  # noqa: PLR2004
                axes.text(column, row, str(count), ha="center", va="center", color=colour, size=7)
    figure.colorbar(image, label="share of the row", shrink=0.7)
    figure.savefig(picture, dpi=120)
