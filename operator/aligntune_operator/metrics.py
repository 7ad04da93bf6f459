"""The operator's own metrics, and those of each job that it knows."""

from collections import Counter as Tally
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from aligntune.api.conditions import Phase
from aligntune.api.progress import Progress
from aligntune_operator.attempts import goodput
from aligntune_operator.cache import Cache

JOB_LABELS = ("namespace", "aligntunejob")


class Metrics:
    """Counters and histograms of the operator's work."""

    def __init__(
        self,
        registry: CollectorRegistry,
        cache: Cache,
        queue_length: Callable[[], int],
        leading: Callable[[], bool],
    ) -> None:
        self.reconcile_seconds = Histogram(
            "aligntune_operator_reconcile_duration_seconds",
            "Time of one reconciliation.",
            buckets=(0.005, 0.02, 0.05, 0.1, 0.25, 1, 5, 30),
            registry=registry,
        )
        self.reconcile_errors = Counter(
            "aligntune_operator_reconcile_errors",
            "Reconciliations that failed and are tried again.",
            registry=registry,
        )
        self.watch_missed = Counter(
            "aligntune_operator_watch_missed",
            "Objects that vanished and that no watch told of: a whole list showed it.",
            registry=registry,
        )
        self.requests = Counter(
            "aligntune_operator_api_requests",
            "Requests to the API server; code 0 means no answer.",
            ("verb", "resource", "code"),
            registry=registry,
        )
        self.events_dropped = Counter(
            "aligntune_operator_events_dropped",
            "Kubernetes Events that could not be written, and were given up.",
            registry=registry,
        )
        self.polls = Counter(
            "aligntune_operator_progress_polls",
            "Progress endpoints asked.",
            ("result",),
            registry=registry,
        )
        Gauge(
            "aligntune_operator_queue_length", "Jobs that wait for a worker.", registry=registry
        ).set_function(lambda: queue_length() if leading() else 0.0)
        Gauge(
            "aligntune_operator_leader", "1 while this replica leads.", registry=registry
        ).set_function(lambda: float(leading()))
        registry.register(JobCollector(cache))

    def count_poll(self, result: str) -> None:
        """Counts a progress endpoint that was asked."""
        self.polls.labels(result).inc()

    def request(self, verb: str, resource: str, code: int) -> None:
        """Counts a request to the API server."""
        self.requests.labels(verb, resource, str(code)).inc()


class JobCollector(Collector):
    """Reads the cache at each scrape, so the series of a deleted job are gone at once."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def collect(self) -> Iterable[Metric]:
        """All series of all jobs."""
        states = tuple(self._cache.align_tune_jobs())
        phases = Tally(state.status.phase for state in states)
        jobs = GaugeMetricFamily("aligntune_jobs", "Jobs by phase.", labels=("phase",))
        for phase in Phase:
            jobs.add_metric((phase,), phases[phase])
        yield jobs

        in_phase = GaugeMetricFamily(
            "aligntune_job_phase", "1 for the phase of a job.", labels=(*JOB_LABELS, "phase")
        )
        for state in states:
            in_phase.add_metric((*state.key, state.status.phase), 1)
        yield in_phase

        ratio = GaugeMetricFamily(
            "aligntune_job_progress_ratio", "Share of the steps done.", labels=JOB_LABELS
        )
        step = GaugeMetricFamily("aligntune_job_step", "Optimizer steps done.", labels=JOB_LABELS)
        loss = GaugeMetricFamily("aligntune_job_loss", "Training loss.", labels=JOB_LABELS)
        tokens = GaugeMetricFamily(
            "aligntune_job_tokens_per_second", "Tokens trained on per second.", labels=JOB_LABELS
        )
        eta = GaugeMetricFamily(
            "aligntune_job_eta_seconds", "Expected time to the last step.", labels=JOB_LABELS
        )
        restarts = GaugeMetricFamily(
            "aligntune_job_restarts", "Restarts that count.", labels=JOB_LABELS
        )
        useful = GaugeMetricFamily(
            "aligntune_job_goodput_ratio",
            "Share of the time that pods were held which went into steps that count.",
            labels=JOB_LABELS,
        )
        for state in states:
            status = state.status
            progress = status.progress or Progress()
            percent = progress.percent
            values: tuple[tuple[GaugeMetricFamily, float | None], ...] = (
                (restarts, status.attempts.restarts),
                (loss, status.metrics.get("loss")),
                (step, progress.step if status.progress else None),
                (ratio, percent / 100 if percent is not None else None),
                (tokens, progress.tokens_per_second),
                (eta, progress.eta_seconds),
                (useful, goodput(status.attempts, status.progress)),
            )
            for family, value in values:
                if value is not None:
                    family.add_metric(state.key, value)
        yield from (ratio, step, loss, tokens, eta, restarts, useful)
