"""What can end a run, told apart where somebody reacts differently.

The text of each is one sentence for a person: what is wrong, where, how to fix it.
"""

import difflib
from collections.abc import Iterator, Sequence


class RunError(Exception):
    """A run cannot start or go on, and the text says why; a traceback would add nothing."""


class ConfigError(RunError, ValueError):
    """The config asks for something that cannot be done."""


class UnsupportedError(ConfigError):
    """This version has no trainer for the combination of backend, task and strategy."""

    def __init__(self, message: str, *location: str) -> None:
        """Blame the field at `location`, below a manifest's `spec`; the text begins with it."""
        super().__init__(f"{'.'.join(('spec', *location))}: {message}" if location else message)
        self.message = message
        self.location = location


class DataError(RunError, ValueError):
    """The data cannot be read, or its columns cannot be understood."""


class DatasetNotFoundError(DataError):
    """There is no data set under this name, revision or path."""


class ModelNotFoundError(RunError, LookupError):
    """There is no model under this name, revision or folder."""


class UnauthorizedError(RunError, PermissionError):
    """The hub wants a token, or the token may not do this."""


class LossDivergedError(RunError, ArithmeticError):
    """The loss or its gradient is no longer a finite number, or a policy has left its reference."""


class HubUnreachableError(RunError):
    """The hub does not answer, or only with an error of its own, and the cache has no stand-in."""


class HubPushError(RunError):
    """The model is saved, but could not be uploaded."""


class PreemptedError(RunError):
    """A measurement was cut short, since this process or a peer of it was asked to stop."""


class SupersededError(RunError):
    """Another process has taken over the output folder."""


def error_chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and those that led to it, the newest first."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        yield link
        seen.add(id(link))
        link = link.__cause__ or link.__context__


def suggestion(name: str, known: Sequence[str]) -> str:
    """The end of a sentence about an unknown name: the nearest one, or all that are known."""
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known are {', '.join(known)}" if known else ""
