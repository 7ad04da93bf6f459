"""An AlignTuneJob as people's tools see it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple, Self

from pydantic import ValidationError

from aligntune.api.env import STORAGE_DIR
from aligntune.api.exit_codes import ExitCode
from aligntune.api.names import output_folder
from aligntune.api.runtime import RuntimeSpec
from aligntune.api.status import AlignTuneJobStatus
from aligntune.cluster.errors import ClusterError
from aligntune.core.config.errors import mistakes

UNPRINTABLE = {
    code: "\N{REPLACEMENT CHARACTER}"
    for code in (*range(0x20), *range(0x7F, 0xA0))
    if chr(code) not in "\n\t"
}
"""Control characters, for `str.translate`: a terminal would obey them. What a status tells are also
words of its pods, and whoever reads them may be an administrator (as in CVE-2021-25743)."""


class Job(NamedTuple):
    """An AlignTuneJob; its spec is as it was written, since it may be of another version.

    Its status can be printed: it has no control characters.
    """

    name: str
    namespace: str
    uid: str
    created: datetime
    spec: Mapping[str, Any]
    status: AlignTuneJobStatus

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        """From what the API server answers.

        Raises:
            ClusterError: Its status is of a version that this one cannot read.
        """
        metadata = body["metadata"]
        try:
            status = AlignTuneJobStatus.parse(_printable(body.get("status", {})))
        except ValidationError as error:
            raise _strange(metadata["name"], "status", error) from error
        return cls(
            metadata["name"],
            metadata["namespace"],
            metadata["uid"],
            datetime.fromisoformat(metadata["creationTimestamp"]),
            body.get("spec", {}),
            status,
        )

    @property
    def runtime(self) -> RuntimeSpec:
        """Where it runs.

        Raises:
            ClusterError: It is invalid, or of a version that this one cannot read.
        """
        try:
            return RuntimeSpec.parse(self.spec.get("runtime") or {})
        except ValidationError as error:
            raise _strange(self.name, "spec.runtime", error) from error

    @property
    def image(self) -> str | None:
        """The image that it runs; None where neither its spec nor its newest attempt tells."""
        ran = [attempt.image for attempt in self.status.attempts.history[-1:]]
        return self.runtime.image or next(iter(ran), None)

    @property
    def claim(self) -> str | None:
        """The PersistentVolumeClaim with its output; None where that is gone with its pod."""
        claim: str | None = self._storage.get("claimName")
        return claim

    @property
    def output_folder(self) -> str:
        """Its folder in the claim."""
        return output_folder(self.name, self.uid, self._storage.get("subPath") or "")

    @property
    def _storage(self) -> Mapping[str, Any]:
        return self.spec.get("storage") or {}

    @property
    def output_path(self) -> str:
        """The same folder inside a pod that mounts the storage."""
        return f"{STORAGE_DIR}/{self.output_folder}"


def _printable(value: Any) -> Any:  # noqa: ANN401 - JSON
    match value:
        case str():
            return value.translate(UNPRINTABLE)
        case list():
            return [_printable(item) for item in value]
        case dict():
            return {_printable(name): _printable(item) for name, item in value.items()}
    return value


def _strange(name: str, section: str, error: ValidationError) -> ClusterError:
    model = AlignTuneJobStatus if section == "status" else RuntimeSpec
    [first, *_] = mistakes(error, model, section)
    return ClusterError(
        f"{name}: {first}. If the operator is newer than this program, update it;"
        f" `aligntune status {name} -o yaml` shows the object as it is",
        ExitCode.BAD_CONFIG,
    )
