"""llama.cpp's tools, fetched through pip and built once on a machine; and what they have made."""

import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import cmake
import torch
from transformers import AutoModelForCausalLM

from aligntune.training.gguf import CONVERTER, QUANTISER
from tests.cluster import cache
from tests.cluster.processes import REPOSITORY

CONSTRAINTS = REPOSITORY / "constraints.txt"
PARTS = (CONVERTER, "conversion", "gguf-py", QUANTISER)
"""What is kept of half a gigabyte."""
SETTINGS = {
    "BUILD_SHARED_LIBS": "OFF",
    "CMAKE_BUILD_TYPE": "Debug",  # tiny models are quantised with it, so let it be built quickly
    "CMAKE_CXX_FLAGS_DEBUG": "-O0",
    "CMAKE_C_FLAGS_DEBUG": "-O0",
    "GGML_NATIVE": "OFF",
    "GGML_OPENMP": "OFF",
    "LLAMA_BUILD_SERVER": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_OPENSSL": "OFF",
}

TOLERANCE = {"model-bf16.gguf": 0.02, "model-q8_0.gguf": 0.03, "model-q4_k_m.gguf": 0.3}
"""How far logits may be from those of the model in full, as `distance` has it."""


def llama_cpp() -> Path:
    """The folder, as the trainer images have it."""
    pin = re.search(r"^llama-cpp-python==(.+)$", CONSTRAINTS.read_text(), re.MULTILINE)
    assert pin is not None
    return cache.once(f"llama-cpp-{pin[1]}/llama.cpp", _make)


def _make(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        fetch += ["--no-binary", "llama-cpp-python", "--constraint", str(CONSTRAINTS)]
        subprocess.run([*fetch, "--dest", scratch, "llama-cpp-python"], check=True)
        [archive] = Path(scratch).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(scratch, filter="data")
        [sources] = Path(scratch).glob("*/vendor/llama.cpp")
        _build(sources)
        for part in PARTS:
            (folder / part).parent.mkdir(parents=True, exist_ok=True)
            (sources / part).rename(folder / part)


def _build(sources: Path) -> None:
    build, program = sources / "build", Path(cmake.CMAKE_BIN_DIR) / "cmake"
    flags = [f"-D{name}={value}" for name, value in SETTINGS.items()]
    for step in (
        ["-S", sources, "-B", build, *flags],
        ["--build", build, "--target", "llama-quantize", f"-j{os.cpu_count() or 1}"],
    ):
        subprocess.run([program, *step], check=True, stdout=subprocess.DEVNULL)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(500, 540).unsqueeze(0)).logits.float()


def distance(file: Path, expected: torch.Tensor) -> float:
    """How far a file's logits are from the expected ones, as a share of how much these vary."""
    with tempfile.TemporaryDirectory() as alone:  # beside adapters transformers looks for the base
        (Path(alone) / file.name).symlink_to(file)
        model = AutoModelForCausalLM.from_pretrained(
            alone, gguf_file=file.name, dtype=torch.float32
        )
    return float((logits(model) - expected).std() / expected.std())
