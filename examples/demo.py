"""The demo: a real fine-tuning run on this machine, and what it changed. `make demo` runs it.

Prepares a real model and real conversations, runs `sft-chat.yaml` as `aligntune run` does, draws
the loss curve, and asks the model the same questions before and after tuning.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import mean

EXAMPLES = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "aligntune"
OUTPUT = Path("runs")
JOB = OUTPUT / "sft-chat"
QUESTIONS = ("Are you sentient?", "What is your favorite food?")
FEW = 5
"""Steps at each end of the curve whose mean loss is compared."""


def run(*command: str) -> None:
    """Runs a command, and ends the demo with its exit code if it fails."""
    print("$", " ".join(command), flush=True)
    if code := subprocess.run(command, check=False).returncode:
        sys.exit(code)


def losses() -> list[tuple[int, float]]:
    """Step and loss of every step of the run."""
    lines = (json.loads(line) for line in (JOB / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def draw(curve: list[tuple[int, float]], picture: Path) -> None:
    """Saves the loss curve as a picture."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.plot(*zip(*curve, strict=True))
    axes.set(title="SmolLM2-135M-Instruct, LoRA, chatterbot corpus", xlabel="step", ylabel="loss")
    axes.grid(alpha=0.3)
    figure.savefig(picture, dpi=120)


def answers() -> None:
    """Asks the tuned and the untuned model; the adapter loads with plain peft."""
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(JOB / "model")
    model = AutoPeftModelForCausalLM.from_pretrained(JOB / "model")

    def answer(question: str) -> str:
        chat = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        tokens = model.generate(**chat, max_new_tokens=40, do_sample=False)
        words: str = tokenizer.decode(
            tokens[0, chat["input_ids"].shape[1] :], skip_special_tokens=True
        )
        return " ".join(words.split())

    for question in QUESTIONS:
        print(f"\n{question}")
        with model.disable_adapter():
            print(f"  before: {answer(question)}")
        print(f"  after:  {answer(question)}")


def main() -> None:
    """Runs the whole demo; fails if the loss has not fallen."""
    run(sys.executable, str(EXAMPLES / "prepare.py"))
    run(
        sys.executable, "-m", "aligntune", "run", str(EXAMPLES / "sft-chat.yaml"),
        "--output", str(OUTPUT), "--volume", f"cache={CACHE}",
    )  # fmt: skip
    curve = losses()
    draw(curve, JOB / "loss.png")
    first = mean(loss for _, loss in curve[:FEW])
    last = mean(loss for _, loss in curve[-FEW:])
    answers()
    print(f"\nmean loss of the first {FEW} steps {first:.2f}, of the last {FEW} {last:.2f}")
    for what, place in (
        ("model", "model"),
        ("loss curve", "loss.png"),
        ("outcome", "attempt-1/outcome.json"),
        ("log", "attempt-1/rank-0.log"),
    ):
        print(f"{what + ':':<12}{JOB / place}")
    if last >= first:
        sys.exit("the loss has not fallen")


if __name__ == "__main__":
    main()
