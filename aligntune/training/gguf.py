"""A saved model as GGUF files, by llama.cpp's own tools: one converts, the other quantises."""

import copy
import errno
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from aligntune.core.config.model import GgufType
from aligntune.core.errors import ConfigError, RunError
from aligntune.training.machine import require

LLAMA_CPP = "LLAMA_CPP"
"""The variable that names llama.cpp's folder."""
CONVERTER = "convert_hf_to_gguf.py"
QUANTISER = "build/bin/llama-quantize"
CONVERTED: GgufType = "bf16"
"""What a model is converted to once, and quantised from: merged weights lose nothing in it."""
FULL_DISK = (
    "No space left",
    "File too large",
    "quota exceeded",
    " requested and ",
    "iostream error",
)
"""What the tools say where the disk takes no more; numpy and the C++ library give no reason."""
EXCEPTION = re.compile(r"^[\w.]*(?:Error|Exception): .+$", re.MULTILINE)
"""The line in which a Python program says what it died of."""

_log = logging.getLogger(__name__)


def check_tools() -> None:
    """See that llama.cpp is here, and what its converter imports, before any work is done.

    Raises:
        ConfigError: It is not.
    """
    for tool in (CONVERTER, QUANTISER):
        if not _tool(tool).is_file():
            named = os.environ.get(LLAMA_CPP)
            there = f"names a folder without {tool}" if named else "is not set"
            raise ConfigError(
                f"model.gguf: needs llama.cpp, and the variable {LLAMA_CPP} {there}: name the"
                " folder that it was built in, as docs/gguf.md shows, or remove gguf"
            )
    require("sentencepiece", "model.gguf")


def check_convertible(
    architecture: PretrainedConfig,
    tokenizer: Any,
) -> None:
    """See that llama.cpp knows this kind of model and its tokenizer, before hours of training.

    Raises:
        ConfigError: It does not.
    """
    plain = copy.deepcopy(architecture)
    if hasattr(plain, "quantization_config"):  # what is saved is not quantised
        del plain.quantization_config
    with tempfile.TemporaryDirectory() as folder:
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        _convert("--vocab-only", "--outfile", f"{folder}/vocabulary.gguf", folder)


def convert(model: Path, scratch: Path, name: str) -> Path:
    """Write a folder of whole weights as one file into `scratch`; returns it.

    Args:
        model: The folder.
        scratch: Where it goes.
        name: What the file says that it is.

    Raises:
        ConfigError: llama.cpp cannot convert it.
        OSError: The disk is full.
    """
    file = scratch / f"{CONVERTED}.gguf"
    _convert("--outtype", CONVERTED, "--outfile", file, "--model-name", name, model)
    return file


def quantise(file: Path, types: Iterable[GgufType]) -> list[Path]:
    """Write what `convert` returned as other types, beside it; returns the files of all `types`.

    Raises:
        ConfigError: llama.cpp cannot.
        OSError: The disk is full.
    """
    files = {kind: file.with_name(f"model-{kind}.gguf") for kind in types}
    for kind, target in files.items():
        if kind != CONVERTED:
            _run(_tool(QUANTISER), file, target, kind)
    if CONVERTED in files:
        file.rename(files[CONVERTED])
    return list(files.values())


def _convert(*arguments: str | Path) -> None:
    _run(sys.executable, _tool(CONVERTER), *arguments)


def _run(*command: str | Path) -> None:
    done = subprocess.run(  # noqa: S603 - llama.cpp's tools, from the folder that the owner names
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        check=False,
        # All is in the folder; a tokenizer's own code is not to be fetched, and run, behind it.
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    if done.returncode == 0:
        return
    _log.error("%s\n%s", " ".join(map(str, command)), done.stdout)
    if any(words in done.stdout for words in FULL_DISK):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if done.returncode < 0:
        raise RunError(f"model.gguf: llama.cpp was ended by signal {-done.returncode}")
    lines = EXCEPTION.findall(done.stdout) or done.stdout.strip().splitlines()
    words = lines[-1] if lines else f"exit code {done.returncode}"
    raise ConfigError(
        f"model.gguf: llama.cpp cannot convert this model ({words[:300]}); remove gguf, or take"
        " another model"
    )


def _tool(name: str) -> Path:
    return Path(os.environ.get(LLAMA_CPP, "")) / name
