"""The model hub: whether it answers, and what its refusals mean to a person."""

import re
from functools import cache
from typing import Literal, NamedTuple

import httpx
from huggingface_hub import constants, get_token, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import http_backoff  # type: ignore[attr-defined]  # it is lazy

from aligntune.core.errors import (
    DatasetNotFoundError,
    HubUnreachableError,
    ModelNotFoundError,
    RunError,
    UnauthorizedError,
    error_chain,
)

PATIENCE = 2
"""How often first contact is tried again: after 1 s and after 2 s more. The clients would try five
times for each file, which is 46 s until a model is given up and 23 s for a data set. A person wants
to know sooner; a pod has spent 4 s or more on imports by now, so its network has had time to come
up. Once the hub has answered, outages of up to 23 s are left to the clients."""
CONNECT_SECONDS = 5.0
"""Longest wait for a connection, where a firewall swallows packets instead of refusing them."""
PUSH_PATIENCE = 5
"""The same before a push, 23 s in all: hours of training may lie behind it."""

COMMIT = re.compile("[0-9a-f]{40}")
SET_TOKEN = "set HF_TOKEN (in a manifest: hub.tokenSecret)"  # noqa: S105 - a sentence


def probe_hub() -> str | None:
    """Find out whether the hub answers.

    The first call in a process asks over the network, and again for `PATIENCE` times. Once there
    was an answer no later call asks; where there was none, each asks once more, without waiting.

    Returns:
        Why only the cache can help, with a remedy; None where the hub answers.
    """
    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE forbids to ask the hub: use a folder, or unset it"
    if _answered_at_first():
        return None
    try:
        contact(patience=0)
    except httpx.TransportError as error:
        return (
            f"the hub at {constants.ENDPOINT} cannot be reached ({error}): use a folder, or look at"
            " the network"
        )
    return None


def answers(patience: int) -> bool:
    """Whether the hub answers when asked as `contact` asks."""
    try:
        contact(patience)
    except httpx.TransportError:
        return False
    return True


def contact(patience: int) -> None:
    """Ask the hub over the network for any answer at all, and `patience` times again.

    Raises:
        httpx.TransportError: There was none.
    """
    http_backoff(
        "HEAD",
        constants.ENDPOINT,
        max_retries=patience,
        retry_on_status_codes=(),
        timeout=httpx.Timeout(constants.DEFAULT_REQUEST_TIMEOUT, connect=CONNECT_SECONDS),
    )


def is_path(name: str) -> bool:
    """Whether only a file or folder can have this name: on the hub it is NAME or OWNER/NAME."""
    return name.startswith(("/", ".", "~")) or name.count("/") > 1


class HubRepo(NamedTuple):
    """A model or data set on the hub, as the config names it."""

    kind: Literal["model", "dataset"]
    place: str
    """The field path of the section that names it, such as `datasets[0]`."""
    name: str
    revision: str | None
    """Branch, tag or commit; None is the default branch."""

    def explained(self, error: BaseException) -> RunError | None:
        """What the hub's answer behind an exception means; None if that is not the reason."""
        links = list(error_chain(error))
        said = next(filter(None, map(self._said, links)), None)
        unanswered = LocalEntryNotFoundError | ConnectionError | httpx.TransportError
        if said is None and any(isinstance(link, unanswered) for link in links):
            return self.not_cached()
        return said

    def gated(self) -> RunError:
        """One has to ask before reading it."""
        if get_token():
            return self._unauthorized("it is gated, and not open to this token; ask on its page")
        return self._unauthorized(f"it is gated; ask for access on its page, and {SET_TOKEN}")

    def unknown(self) -> RunError:
        """There is none, or it is private, which the hub does not tell apart."""
        noun = "model" if self.kind == "model" else "data set"
        private = "" if get_token() else f"; for a private one {SET_TOKEN}"
        this_token = " for this token" if get_token() else ""
        return self._missing(
            f"name {self.name!r}: the hub has no such {noun}{this_token}; check the name{private}"
        )

    def not_cached(self) -> RunError:
        """The hub cannot be asked, and the cache does not have it."""
        why = probe_hub() or "the hub did not answer: try again"
        place = f"name {self.name!r}: {self.revision or 'main'} is not in the cache, and {why}"
        if constants.is_offline_mode():
            return self._missing(place)
        return HubUnreachableError(f"{self.place}.{place}")

    def cached_commit(self) -> str | None:
        """The commit that the revision was when the cache was filled; None if that is unknown."""
        if self.revision and COMMIT.fullmatch(self.revision):
            return self.revision
        card = try_to_load_from_cache(
            self.name, "README.md", revision=self.revision, repo_type=self.kind
        )
        return card.rpartition("/")[0].rpartition("/")[2] if isinstance(card, str) else None

    def _said(self, answer: BaseException) -> RunError | None:
        match answer:
            case GatedRepoError():
                return self.gated()
            case RevisionNotFoundError():
                return self._missing(
                    f"revision {self.revision!r}: {self.name} has no such revision"
                )
            case RepositoryNotFoundError():
                return self.unknown()
            case HFValidationError():
                return self._missing(f"name {self.name!r}: this is neither a folder nor a name")
            case HfHubHTTPError():
                return self._refused(answer.response.status_code)
        return None

    def _refused(self, status: int) -> RunError:
        if status == httpx.codes.UNAUTHORIZED and not get_token():
            return self.unknown()
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            return self._unauthorized(
                f"the hub refuses the token ({status}); make a new one, or check what it may do"
            )
        return HubUnreachableError(
            f"{self.place}.name {self.name!r}: the hub answers with {status}; try again later"
        )

    def _unauthorized(self, why: str) -> UnauthorizedError:
        return UnauthorizedError(f"{self.place}.name {self.name!r}: {why}")

    def _missing(self, what: str) -> RunError:
        kind = ModelNotFoundError if self.kind == "model" else DatasetNotFoundError
        return kind(f"{self.place}.{what}")


@cache
def _answered_at_first() -> bool:
    return answers(PATIENCE)
