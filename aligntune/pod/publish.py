"""Publishing the trained model; alone, where an earlier attempt has trained it."""

from pathlib import Path

from pydantic import ValidationError

from aligntune.api.causes import Cause
from aligntune.api.exit_codes import ExitCode
from aligntune.api.names import attempt_folder
from aligntune.api.progress import Outcome
from aligntune.api.run import HubPush, RunConfig
from aligntune.training.context import rank


def unpublished(run: RunConfig) -> Outcome | None:
    """How the attempt before this ended, if all it lacks is the upload of its model."""
    before = Path(run.method.output_dir) / attempt_folder(run.attempt - 1) / "outcome.json"
    if run.push is None or not before.is_file():
        return None
    try:
        outcome = Outcome.model_validate_json(before.read_text("utf-8"))
    except ValidationError:
        return None
    if outcome.reason != Cause.HUB_PUSH_FAILED or outcome.model_path is None:
        return None
    return outcome if (Path(run.storage_root) / outcome.model_path).is_dir() else None


def republish(run: RunConfig, before: Outcome) -> Outcome:
    """Uploads the model that is there; nothing is trained or saved again. Errors as `publish`."""
    url = before.model_url
    if run.push is not None and rank() == 0:
        url = publish(Path(run.storage_root) / str(before.model_path), run.push)
    done = {"result": "Succeeded", "reason": None, "message": "", "log_tail": ""}
    return before.model_copy(update={**done, "exit_code": ExitCode.DONE, "model_url": url})


def publish(model: Path, push: HubPush) -> str:
    """Uploads a saved model, with the token in HF_TOKEN; returns the URL of its page.

    Raises:
        HubPushError: It could not be uploaded.
        UnauthorizedError: The token may not write there.
    """
    from aligntune.training.saving import push as upload

    return upload(
        model, push.repo_id, private=push.private, token=None, commit_message="Upload model"
    )
