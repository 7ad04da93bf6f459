"""The same path without a cluster: a local process stands in for the pod, and nothing else changes.

The manifest goes through the same plan, the process gets the same config and is asked for progress
at the same endpoint, and the status comes from the same reducer.
"""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError
from pydantic.alias_generators import to_camel

from aligntune.api import env
from aligntune.api.conditions import Phase
from aligntune.api.job import AlignTuneJobSpec, Manifest, StorageSpec
from aligntune.api.names import MODEL, attempt_folder
from aligntune.api.progress import Snapshot
from aligntune.api.run import RunConfig
from aligntune.api.status import AlignTuneJobStatus
from aligntune.core.errors import ConfigError
from aligntune_operator.observe import AlignTuneJobState, JobState, Key, PodState, Poll, observe
from aligntune_operator.plan import CreateJob, plan
from aligntune_operator.render.config import run_config
from aligntune_operator.stages import with_models
from aligntune_operator.status.conditions import finished
from aligntune_operator.status.reduce import reduce_status

Seen = tuple[tuple[JobState, ...], tuple[PodState, ...], Poll | None]
NOTHING: Seen = ((), (), None)

UID = "local"
POLL_SECONDS = 0.5
LOOPBACK = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Asks this machine, whatever proxy the environment names for others."""


def run(
    manifest: Manifest,
    output: Path,
    volumes: Mapping[str, Path],
    clock: Callable[[], datetime],
    changed: Callable[[AlignTuneJobStatus], None],
) -> AlignTuneJobStatus:
    """Runs a job to its end on this machine.

    Args:
        manifest: The job; its output goes to a folder of its name, so that running it again
            resumes it.
        output: The folder that stands for its storage.
        volumes: Folders that stand for volumes of the manifest, by volume name.
        clock: Tells the time.
        changed: Told of each new status.

    Returns:
        The final status; Suspended if it was interrupted.

    Raises:
        ConfigError: The manifest needs something that only a cluster has.
    """
    models = _models_here(manifest.spec, output)
    spec = with_models(manifest.spec, models)
    key = Key(manifest.metadata.namespace, manifest.metadata.name)
    began = clock()
    state = AlignTuneJobState(
        key=key,
        uid=UID,
        resource_version=0,
        generation=1,
        created=began,
        deleting=False,
        spec=_here(spec).model_dump(mode="json", by_alias=True, exclude_none=True),
        status=AlignTuneJobStatus(),
    )
    process: LocalProcess | None = None
    end_seen = False
    while True:
        now = clock()
        if process is not None and process.interrupted:
            state = replace(state, spec={**state.spec, "suspend": True})
        if process is None or (process.interrupted and end_seen):
            # One that was asked to stop is gone once its last words are told, as a deleted Job is.
            jobs, pods, poll = NOTHING
        else:
            jobs, pods, poll = process.observe(now)
        for action in plan(observe(state, jobs, pods, poll=poll), now):
            if isinstance(action, CreateJob):
                lineage = {folder: f"AlignTuneJob {name}" for name, folder in models.items()}
                config = _config(key, spec, action.attempt, output.resolve(), volumes).model_copy(
                    update={"lineage": lineage or None}
                )
                process = LocalProcess.start(config, _environment(spec), now)
                jobs, pods, poll = process.observe(now)
                end_seen = False
        end_seen = end_seen or any(pod.ended for pod in pods)
        status = reduce_status(observe(state, jobs, pods, poll=poll), now)
        if status != state.status:
            changed(status)
            state = replace(state, status=status)
        if process is None or finished(status) or status.phase == Phase.SUSPENDED:
            return status
        process.wait(POLL_SECONDS)


@dataclass
class LocalProcess:
    """`aligntune launch` as a child process, seen as a Job with one pod."""

    process: subprocess.Popen[bytes]
    job: JobState
    pod: PodState
    folder: Path
    interrupted: bool = False
    """It was asked to stop: what `spec.suspend` is on a cluster."""

    @classmethod
    def start(cls, config: RunConfig, variables: Mapping[str, str], now: datetime) -> Self:
        """Starts an attempt; SIGINT and SIGTERM to this process are passed on to it.

        The launcher saves a checkpoint on the first of them, and gives up on a second SIGINT.
        """
        folder = Path(config.method.output_dir) / attempt_folder(config.attempt)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            config_file = folder / env.CONFIG_FILE
            config_file.write_text(config.model_dump_json(indent=2, exclude_none=True))
        except OSError as error:
            raise ConfigError(
                f"{folder}: cannot be written to ({error.strerror}): choose another folder with"
                " --output"
            ) from error
        (folder / "termination-message").unlink(missing_ok=True)
        (folder / "endpoint.json").unlink(missing_ok=True)
        with (folder / "launcher.log").open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", "aligntune", "launch", str(config_file), "--port", "0"],
                env={
                    **os.environ,
                    **variables,
                    env.TERMINATION_MESSAGE_PATH: str(folder / "termination-message"),
                },
                stdout=log,
                stderr=subprocess.STDOUT,
                # A terminal's Ctrl-C would reach it a second time otherwise.
                start_new_session=True,
            )
        name = f"{config.job.name}-{config.attempt}"
        started = cls(
            process,
            JobState(name, UID, 0, owner_uid=UID, attempt=config.attempt, created=now),
            PodState(name, UID, 0, job_uid=UID, index=0, phase="Running", running=True),
            folder,
        )
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda received, _: started.interrupt(received))
        return started

    def interrupt(self, number: int) -> None:
        """Passes a signal on."""
        self.interrupted = True
        self.job = replace(self.job, deleting=True)
        self.process.send_signal(number)

    def observe(self, now: datetime) -> Seen:
        """The process as a Job, its pod and the last answer of its endpoint."""
        code = self.process.poll()
        if code is None:
            return (self.job,), (self.pod,), self._ask(now)
        message = self.folder / "termination-message"
        pod = replace(
            self.pod,
            phase="Failed" if code else "Succeeded",
            running=False,
            exit_code=code if code >= 0 else 128 - code,
            message=message.read_text() if message.exists() else "",
        )
        failed_reason = "BackoffLimitExceeded" if code else None
        job = replace(self.job, complete=code == 0, failed_reason=failed_reason, ended=now)
        return (job,), (pod,), None

    def wait(self, seconds: float) -> None:
        """Waits for the end of the process, but no longer."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return

    def _ask(self, now: datetime) -> Poll | None:
        endpoint = self.folder / "endpoint.json"
        if not endpoint.exists():
            return None
        try:
            url = json.loads(endpoint.read_text())["url"]
            with LOOPBACK.open(f"{url}/progress", timeout=5) as answer:
                snapshot = Snapshot.model_validate_json(answer.read())
        except (OSError, ValueError, ValidationError, urllib.error.URLError) as error:
            return Poll(UID, now, error=f"The process does not answer ({type(error).__name__}).")
        return Poll(UID, now, snapshot)


def _models_here(spec: AlignTuneJobSpec, output: Path) -> dict[str, str]:
    """The folders where earlier runs left the models that this one starts from, by job."""
    folders = {}
    for field, model in spec.method.models.items():
        if model.from_job is not None:
            folder = output.resolve() / model.from_job / MODEL
            if not folder.is_dir():
                raise ConfigError(
                    f"spec.{'sft' if spec.sft else 'rl'}.{to_camel(field)}.fromJob: there is no"
                    f" {folder}; run {model.from_job} first"
                )
            folders[model.from_job] = str(folder)
    return folders


def _here(spec: AlignTuneJobSpec) -> AlignTuneJobSpec:
    """With a folder that stays as its storage, and without restarts that count: a person is there,
    and sees a fault at once.
    """
    policy = spec.policy.model_copy(update={"max_restarts": 0})
    storage = StorageSpec(claim_name=UID)
    return spec.model_copy(update={"policy": policy, "storage": storage})


def _config(
    key: Key, spec: AlignTuneJobSpec, attempt: int, output: Path, volumes: Mapping[str, Path]
) -> RunConfig:
    """The attempt's config, with paths in the pod turned into paths on this machine."""
    if spec.runtime.nodes > 1:
        raise ConfigError(
            "spec.runtime.nodes: one machine stands for one node: set it to 1, or use"
            " processesPerNode"
        )
    config = run_config(key, UID, spec, attempt, storage_root=str(output), folder=key.name)
    folders = dict(_mounted_folders(spec, volumes))
    document = config.model_dump(mode="json", by_alias=True, exclude_none=True)
    return RunConfig.parse(_relocate(document, folders))


def _mounted_folders(spec: AlignTuneJobSpec, volumes: Mapping[str, Path]) -> list[tuple[str, str]]:
    names = {volume.name for volume in spec.runtime.volumes}
    if unknown := set(volumes) - names:
        raise ConfigError(
            f"--volume {min(unknown)}: the manifest has no such volume;"
            f" it has {', '.join(sorted(names)) or 'none'}"
        )
    found = []
    for mount in spec.runtime.volume_mounts:
        if mount.name not in volumes:
            raise ConfigError(
                f"spec.runtime.volumes: this machine does not have the volume {mount.name!r}; say"
                f" which folder stands for it with --volume {mount.name}=FOLDER"
            )
        folder = volumes[mount.name].expanduser().resolve() / (mount.sub_path or "")
        found.append((mount.mount_path.rstrip("/"), str(folder)))
    return found


def _relocate(value: Any, folders: Mapping[str, str]) -> Any:  # noqa: ANN401 - any JSON value
    """A JSON value with every path below a mount moved to the folder that stands for it."""
    if isinstance(value, dict):
        return {name: _relocate(child, folders) for name, child in value.items()}
    if isinstance(value, list):
        return [_relocate(child, folders) for child in value]
    if isinstance(value, str):
        for mount, folder in folders.items():
            if value == mount or value.startswith(f"{mount}/"):
                return folder + value.removeprefix(mount)
    return value


def _environment(spec: AlignTuneJobSpec) -> dict[str, str]:
    """The manifest's variables; those from Secrets must be in this process's environment."""
    if spec.runtime.env_from:
        raise ConfigError(
            "spec.runtime.envFrom: Secrets and ConfigMaps are in the cluster; set what is needed of"
            " them in this shell, and leave it out"
        )
    variables = {}
    for variable in spec.runtime.env:
        if variable.value_from is None:
            variables[variable.name] = variable.value or ""
        elif variable.name not in os.environ:
            raise ConfigError(
                f"spec.runtime.env: {variable.name} comes from the cluster; set it in this shell"
            )
    return variables
