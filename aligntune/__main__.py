"""`python -m aligntune` is the command line, and a pod's first process."""

import os
import signal

from aligntune.api.exit_codes import ExitCode

if os.getpid() == 1:
    # Linux keeps a signal from a container's first process that has no handler for it: what a pod
    # is told while the imports below take their time would be lost.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(ExitCode.PREEMPTED))

from aligntune.cli import main

main()
