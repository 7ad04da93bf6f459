"""The curves of a run, from the files that its trainer writes, and a picture of them."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from aligntune.api.exit_codes import ExitCode
from aligntune.cluster.errors import ClusterError
from aligntune.core.errors import ConfigError

Curve = list[tuple[float, float]]
"""Step and value."""

SHOWN = ("loss", "evalLoss", "rewardMean", "evalRewardMean", "rewardMargin", "kl")
"""What is drawn unless metrics are named, as far as a run has it."""
BLOCKS = "▁▂▃▄▅▆▇█"


def curves(lines: Iterable[str]) -> dict[str, Curve]:
    """Every metric over the steps; what is no whole JSON object with a step is passed over."""
    found: dict[str, Curve] = defaultdict(list)
    for line in lines:
        try:
            values = json.loads(line)
        except ValueError:
            continue  # half a line: at the beginning of what was read, or of a killed process
        if not isinstance(values, dict):
            continue
        step = values.pop("step", None)
        if isinstance(step, int | float):
            for name, value in values.items():
                if isinstance(value, int | float):
                    found[name].append((step, value))
    return dict(found)


def chosen(found: Mapping[str, Curve], names: Iterable[str], job: str) -> dict[str, Curve]:
    """The curves to draw.

    Args:
        found: All that the run has.
        names: Those that are asked for; none: the usual ones.
        job: Name of the job.

    Raises:
        ClusterError: There is nothing yet.
        ConfigError: A metric is asked for that the run does not have.
    """
    if not found:
        raise ClusterError(
            f"{job} has made no step yet: there is nothing to draw", ExitCode.NOT_FOUND
        )
    names = list(names)
    for name in names:
        if name not in found:
            raise ConfigError(f"--metric: no {name!r} here; there are: {', '.join(sorted(found))}")
    return {name: found[name] for name in names or SHOWN if name in found}


def draw(found: Mapping[str, Curve], title: str, picture: Path) -> None:
    """Saves a picture, one panel for each curve; its format is that of the file's ending.

    Raises:
        ConfigError: The file cannot be written, or not in this format.
    """
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(
        len(found), figsize=(7, 1 + 2.5 * len(found)), sharex=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axes, (name, curve) in zip(panels[:, 0], found.items(), strict=True):
        axes.plot(*zip(*curve, strict=True), marker="." if len(curve) == 1 else None)
        axes.set(ylabel=name)
        axes.grid(alpha=0.3)
    panels[-1, 0].set(xlabel="step")
    figure.suptitle(title)
    try:
        figure.savefig(picture, dpi=120)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"--file {picture}: {reason}") from error
    finally:
        plt.close(figure)


def sparkline(values: Iterable[float], width: int) -> str:
    """The last `width` values as a line of blocks, from their least to their greatest."""
    shown = list(values)[-width:]
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    span = (high - low) or 1.0
    return "".join(BLOCKS[round((value - low) / span * (len(BLOCKS) - 1))] for value in shown)
