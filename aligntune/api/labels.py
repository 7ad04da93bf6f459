"""Names of the resource, and the labels, annotations, containers and volumes of what the operator
makes.
"""

GROUP = "aligntune.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "AlignTuneJob"
PLURAL = "aligntunejobs"

FIELD_MANAGER = "aligntune-operator"
"""Owner of the fields that the operator applies, and the value of the managed-by label."""

JOB_NAME = f"{GROUP}/job-name"
"""Label: metadata.name of the AlignTuneJob. The operator watches only what carries it."""
ATTEMPT = f"{GROUP}/attempt"
"""Label: number of the attempt."""
GENERATION = f"{GROUP}/generation"
"""Annotation of a Job: metadata.generation of the AlignTuneJob whose spec it was made of."""

QUEUE_PREFIX = "kueue.x-k8s.io/"
"""Labels of an AlignTuneJob with this prefix go on to its Jobs, where Kueue reads them."""
QUEUE_API = "apis/kueue.x-k8s.io"
"""Where a LocalQueue is asked for, in the version that is served: each is for some releases."""
QUEUE_NAME = f"{QUEUE_PREFIX}queue-name"
"""Label: the Kueue LocalQueue that decides when the job may hold pods."""

APP_NAME = "app.kubernetes.io/name"
APP_INSTANCE = "app.kubernetes.io/instance"
APP_COMPONENT = "app.kubernetes.io/component"
MANAGED_BY = "app.kubernetes.io/managed-by"

NO_SIDECAR_LABELS = {"sidecar.istio.io/inject": "false"}
NO_SIDECAR_ANNOTATIONS = {"linkerd.io/inject": "disabled"}
"""What Istio and Linkerd read that put a sidecar into every other pod of a namespace."""

COMPLETION_INDEX = "batch.kubernetes.io/job-completion-index"
"""Label that an Indexed Job gives its pods: the pod's index in the gang."""
TRAINER_CONTAINER = "trainer"
"""Name of the container that trains."""

CONFIG_VOLUME = "aligntune-config"
SCRATCH_VOLUME = "aligntune-scratch"
MODEL_CACHE_VOLUME = "aligntune-model-cache"
STORAGE_VOLUME = "storage"
SHM_VOLUME = "shared-memory"
SOURCE_VOLUMES = ("aligntune-source-0", "aligntune-source-1", "aligntune-source-2")
"""Volumes of other jobs' models: at most a policy's, a reference's and a reward model's."""
RESERVED_VOLUMES = (
    CONFIG_VOLUME, SCRATCH_VOLUME, MODEL_CACHE_VOLUME, STORAGE_VOLUME, SHM_VOLUME, *SOURCE_VOLUMES,
)  # fmt: skip
"""Volumes that a pod has from the operator; a job's own have other names."""
