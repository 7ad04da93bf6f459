"""What a cluster refuses, as one sentence with an exit code."""

import json
from http import HTTPStatus
from typing import Any

from aligntune.api.exit_codes import ExitCode
from aligntune.api.labels import PLURAL
from aligntune.core.errors import RunError

EXIT_CODES: dict[int, ExitCode] = {
    HTTPStatus.BAD_REQUEST: ExitCode.BAD_CONFIG,
    HTTPStatus.UNAUTHORIZED: ExitCode.NOT_AUTHORISED,
    HTTPStatus.FORBIDDEN: ExitCode.NOT_AUTHORISED,
    HTTPStatus.NOT_FOUND: ExitCode.NOT_FOUND,
    HTTPStatus.CONFLICT: ExitCode.BAD_CONFIG,
    HTTPStatus.UNPROCESSABLE_ENTITY: ExitCode.BAD_CONFIG,
}
"""What asking again would not mend; all else may pass."""


UNKNOWN_FIELD = "field not declared in schema"
"""How server-side apply says so, which answers 500 then."""


class ClusterError(RunError):
    """Something cannot be had from the cluster, and the text says why."""

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.TEMPORARY) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def refusal(server: str, status: int, body: str) -> ClusterError:
    """An answer of the API server that is none of success.

    Args:
        server: Its URL.
        status: The HTTP status.
        body: What it said: a Kubernetes `Status`, or anything else.
    """
    told = _status(body)
    message = " ".join(str(told.get("message", "")).split()).rstrip(".")
    if UNKNOWN_FIELD in message:
        status = HTTPStatus.BAD_REQUEST
    match status:
        case HTTPStatus.UNAUTHORIZED:
            sentence = (
                f"{server} does not take your credentials: log in again, or name another --context"
            )
        case HTTPStatus.FORBIDDEN:
            sentence = f"{message}. Ask for that right, or name another --namespace or --context"
        case HTTPStatus.NOT_FOUND if not told:
            sentence = (
                f"{server} knows no {PLURAL}: install the operator there, or name another --context"
            )
        case HTTPStatus.NOT_FOUND:
            sentence = f"{message}. `aligntune list -A` shows the jobs that are there"
        case HTTPStatus.CONFLICT if "conflict with" in message:
            sentence = f"{message}. --force-conflicts takes over what others have set"
        case HTTPStatus.BAD_REQUEST | HTTPStatus.UNPROCESSABLE_ENTITY:
            sentence = message or f"{server} refuses that"
        case _:
            sentence = f"{server} answers {status}: {message or 'no reason'}. Try again"
    return ClusterError(sentence, EXIT_CODES.get(status, ExitCode.TEMPORARY))


def _status(body: str) -> dict[str, Any]:
    """A Kubernetes `Status`; empty where the answer is not one."""
    try:
        told = json.loads(body)
    except ValueError:
        return {}
    return told if isinstance(told, dict) and told.get("kind") == "Status" else {}
