import os
import subprocess
import sys

import pytest

from aligntune.pod.gang import reap_orphans


def exited_child(code: int) -> "subprocess.Popen[bytes]":
    child = subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    return child


def test_orphans_are_collected_and_ranks_are_left_to_be_asked() -> None:
    orphan, rank = exited_child(1), exited_child(3)
    reap_orphans({rank.pid})
    with pytest.raises(ChildProcessError):
        os.waitpid(orphan.pid, os.WNOHANG)
    assert rank.wait() == 3
