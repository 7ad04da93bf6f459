"""Environment variables and places in the pod that the operator, launcher and trainer share."""

REPORT_FD = "ALIGNTUNE_REPORT_FD"
"""Number of the pipe on which a rank writes Report lines to the launcher; unset: nobody listens."""
POD_UID = "ALIGNTUNE_POD_UID"
"""UID of this pod: a progress report counts only with the UID of a pod of the current Job."""
POD_NAME = "ALIGNTUNE_POD_NAME"
"""Name of this pod."""
NODE_RANK = "JOB_COMPLETION_INDEX"
"""This pod's index in the gang, as an Indexed Job sets it; unset: 0."""
TERMINATION_MESSAGE_PATH = "ALIGNTUNE_TERMINATION_MESSAGE_PATH"
"""Where the outcome is left for the kubelet; unset: nowhere."""

CONFIG_ANNOTATION = "aligntune.io/config"
"""Annotation of the pod template that holds the RunConfig as JSON."""
CONFIG_DIR = "/etc/aligntune"
CONFIG_FILE = "run.json"
STORAGE_DIR = "/aligntune/storage"
CACHE_DIR = "/aligntune/cache"
"""HOME and every cache that libraries want to write."""
PROGRESS_PORT = 9400
"""Port of /metrics, /progress and /healthz."""
RENDEZVOUS_PORT = 29500
"""Port of torch.distributed's rendezvous at rank 0."""
