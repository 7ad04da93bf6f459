"""Which attempt an output folder belongs to: the newest that began, and no pod thought dead."""

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from aligntune.core.config.base import Section
from aligntune.core.errors import SupersededError
from aligntune.core.files import replace_file

OWNER = "owner.json"


class Owner(Section):
    """What stands in the file."""

    job: str
    """UID of the AlignTuneJob."""
    attempt: int
    """Number of the attempt."""
    token: str
    """Drawn by the process that took the folder."""


@dataclass(frozen=True)
class Ownership:
    """A fencing token (Kleppmann, How to do distributed locking, 2016): whoever took the folder
    last owns it, and everybody else finds out before writing what others rely on.
    """

    file: Path
    owner: Owner

    @classmethod
    def take(cls, folder: Path, job: str, attempt: int) -> Self:
        """Make the folder this process's.

        Raises:
            SupersededError: A later attempt of the same job has it: this one comes too late.
            OSError: It cannot be written.
        """
        file = folder / OWNER
        taken = cls(file, Owner(job=job, attempt=attempt, token=secrets.token_hex(8)))
        before = _read(file)
        if before is not None and before.job == job and before.attempt > attempt:
            raise taken.superseded(before)
        replace_file(file, taken.owner.model_dump_json())
        return taken

    def check(self) -> None:
        """See that the folder is still this process's.

        Raises:
            SupersededError: It is another's.
        """
        now = _read(self.file)
        if now != self.owner:
            raise self.superseded(now)

    def superseded(self, by: Owner | None) -> SupersededError:
        """What to raise where `by` has the folder."""
        who = f"attempt {by.attempt} of {by.job or 'a run without a cluster'}" if by else "nobody"
        return SupersededError(
            f"{self.file.parent} belongs to {who} now ({OWNER}): this process stops without saving,"
            " so that it cannot overwrite what the other has written"
        )


def _read(file: Path) -> Owner | None:
    try:
        return Owner.model_validate_json(file.read_text("utf-8"))
    except (FileNotFoundError, ValidationError):
        return None
