"""Names that are worked out the same way wherever they are needed: of objects, and of files."""

import hashlib

HASH_LENGTH = 5

MODEL = "model"
"""Folder in the output folder: the trained model."""
CURVE = "metrics.jsonl"
"""File in the output folder: loss, gradient norm and learning rate of each step."""
MEASURED = "measured.jsonl"
"""File in the output folder: what the method itself measures, such as rewards, KL, evaluations."""
RANK_LOG = "rank-{rank}.log"
"""File in an attempt's folder: what a training process printed."""


def base_name(name: str, uid: str) -> str:
    """The stem of all names, and the output folder of a job whose storage names none: a job
    re-created under the same name gets another.
    """
    return f"{name}-{hashlib.sha256(uid.encode()).hexdigest()[:HASH_LENGTH]}"


def output_folder(name: str, uid: str, sub_path: str) -> str:
    """Folder in the storage for all that a job leaves: `storage.subPath`, or one of its own."""
    return sub_path or base_name(name, uid)


def service_name(name: str, uid: str) -> str:
    """Name of the Service of a job's gang: it begins with a letter, which a job's name need not."""
    base = base_name(name, uid)
    return base if base[0].isalpha() else f"j-{base}"


def job_name(name: str, uid: str, attempt: int) -> str:
    """Name of an attempt's Job."""
    return f"{base_name(name, uid)}-{attempt}"


def attempt_folder(attempt: int) -> str:
    """Folder in the output folder for the logs and the outcome of an attempt."""
    return f"attempt-{attempt}"
