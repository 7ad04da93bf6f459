"""The README.md of a trained model: config, data, metrics and where it comes from."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from aligntune.core.rl.config import UnifiedConfig
from aligntune.core.sft.config import SFTConfig


def model_card(
    config: SFTConfig | UnifiedConfig,
    *,
    whole: bool,
    title: str,
    lineage: Mapping[str, str],
    method: str,
    base_revision: str,
    data: Sequence[Mapping[str, object]],
    commits: Mapping[str, str],
    metrics: Mapping[str, float],
    versions: Mapping[str, str],
    steps: int,
) -> str:
    """The model card as Markdown.

    Args:
        config: The resolved config.
        whole: Whether the weights are all there; else they are adapters.
        title: The run's name.
        lineage: Which AlignTuneJob a model is of, by its name in the config.
        method: What was done, such as `SFT`.
        base_revision: Commit of the base model on the hub; empty for a folder.
        data: One mapping per source; the keys of the first are the table's head.
        commits: Which commit of each data set on the hub was read, by its name.
        metrics: The last value of each metric.
        versions: Packages and their versions.
        steps: Optimizer steps done.
    """
    base = config.model.name
    header = [
        "---",
        "library_name: " + ("transformers" if whole else "peft"),
    ]
    if not Path(base).is_absolute():
        header.append(f"base_model: {base}")
    header += ["tags:", "- aligntune", f"- {method.lower()}", "---"]
    tuned = "LoRA adapters for" if config.model.tuning == "lora" else "All weights of"
    commit = f" at {base_revision}" if base_revision else ""
    source = f"the model of {lineage[base]}" if base in lineage else f"`{base}`"
    done = f"{tuned} {source}{commit}, trained with {method} for {steps} steps by aligntune."
    settings = json.dumps(config.model_dump(mode="json", exclude={"output_dir"}), indent=2)
    numbers = [{"metric": name, "value": f"{value:.6g}"} for name, value in metrics.items()]
    packages = [{"package": name, "version": number} for name, number in versions.items()]
    lines = [*header, "", f"# {title}", "", done, ""]
    read = [{"data set": name, "commit": commit} for name, commit in commits.items()]
    lines += ["## Data", "", *_table(data), "", *(_table(read) if read else ()), ""]
    lines += ["## Metrics", "", *_table(numbers), ""]
    lines += ["## Config", "", "```json", settings, "```", ""]
    lines += ["## Versions", "", *_table(packages), ""]
    return "\n".join(lines)


def _table(rows: Sequence[Mapping[str, object]]) -> list[str]:
    if not rows:
        return ["None recorded."]
    return [
        f"| {' | '.join(rows[0])} |",
        f"|{' --- |' * len(rows[0])}",
        *(f"| {' | '.join(str(cell) for cell in row.values())} |" for row in rows),
    ]
