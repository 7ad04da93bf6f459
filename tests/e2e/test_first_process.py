"""A container's first process, for which Linux keeps every signal that has no handler."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil

from aligntune.api.exit_codes import ExitCode
from tests.cluster.processes import wait_until


def test_sigterm_ends_a_pod_that_has_only_begun_to_import(tmp_path: Path) -> None:
    """A stand-in for typer is what takes long to import."""
    imports = tmp_path / "imports"
    (tmp_path / "typer.py").write_text(
        "import pathlib, time\n"
        f"pathlib.Path({str(imports)!r}).touch()\n"
        "time.sleep(60)\n"
    )  # fmt: skip
    outside = subprocess.Popen(
        ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-m", "aligntune", "launch"],
        env={"PYTHONPATH": str(tmp_path)},
    )
    try:
        wait_until("it imports", imports.exists)
        [first] = psutil.Process(outside.pid).children()
        first.send_signal(signal.SIGTERM)
        assert outside.wait(timeout=50) == ExitCode.PREEMPTED
    finally:
        outside.kill()
