"""The parts of the operator, and who is given whom."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import kopf
from prometheus_client import CollectorRegistry

from aligntune_operator.cache import Cache
from aligntune_operator.clock import ServerClock
from aligntune_operator.cluster import Cluster
from aligntune_operator.controller import Controller
from aligntune_operator.estimator import Estimator
from aligntune_operator.handlers import kopf_settings
from aligntune_operator.heartbeats import Heartbeats
from aligntune_operator.hub import Hub
from aligntune_operator.leader import Election, Leadership, alone
from aligntune_operator.metrics import Metrics
from aligntune_operator.observe import Key
from aligntune_operator.outbox import Outbox
from aligntune_operator.queue import KeyedQueue
from aligntune_operator.session import Connection, connect
from aligntune_operator.settings import Settings

STUCK_SECONDS = 300.0
"""How long one reconciliation may take before the replica counts as dead: its requests time out
long before."""


@dataclass(frozen=True)
class Parts:
    """What the operator is made of; nothing of it runs yet."""

    settings: Settings
    kopf_settings: kopf.OperatorSettings
    heartbeats: Heartbeats
    connection: Connection
    cache: Cache
    queue: KeyedQueue[Key]
    election: Election
    prometheus: CollectorRegistry
    metrics: Metrics
    clock: ServerClock
    cluster: Cluster
    estimator: Estimator
    outbox: Outbox
    controller: Controller

    def alive(self) -> bool:
        """Whether its watches turn, and no reconciliation is stuck."""
        return self.queue.stuck_seconds() < STUCK_SECONDS and self.heartbeats.alive()


def assemble(settings: Settings, now: Callable[[], datetime]) -> Parts:
    """Makes the parts.

    Args:
        settings: The cluster's owner's.
        now: This machine's clock.

    Raises:
        NoClusterError: Nothing says where the cluster is.
        ConfigError: The kubeconfig does not say it as the operator can use it.
    """
    settings_of_kopf = kopf_settings()
    heartbeats = Heartbeats(time.monotonic)
    connection = connect(settings_of_kopf, heartbeats.beat)
    cache = Cache(timedelta(seconds=settings.node_lost_timeout_seconds))
    rng = random.Random()  # noqa: S311 - jitter is no secret
    # Whoever creates many jobs waits for pods first, and for news of those that run after that.
    # More statuses written at once would not be written faster, and keep new jobs waiting.
    queue = KeyedQueue[Key](
        rng, comes_first=cache.is_new, others_at_once=settings.others_at_once, closed=True
    )
    election = Election(Leadership(time.monotonic)) if settings.lease_namespace else alone()
    prometheus = CollectorRegistry()
    metrics = Metrics(prometheus, cache, queue.__len__, election.leads)
    clock = ServerClock(now)
    cluster = Cluster(
        connection.session,
        connection.server,
        metrics.request,
        election.leads,
        correct_clock=clock.correct,
    )
    estimator = Estimator(cluster, Hub(connection.pods, settings.hub_endpoint, clock), clock, rng)
    outbox = Outbox(rng, clock, metrics.events_dropped.inc, others_first=queue.has_first)
    controller = Controller(
        cache,
        cluster,
        settings,
        clock,
        estimator=estimator,
        post=outbox.post,
        others_first=queue.has_first,
    )
    return Parts(
        settings=settings,
        kopf_settings=settings_of_kopf,
        heartbeats=heartbeats,
        connection=connection,
        cache=cache,
        queue=queue,
        election=election,
        prometheus=prometheus,
        metrics=metrics,
        clock=clock,
        cluster=cluster,
        estimator=estimator,
        outbox=outbox,
        controller=controller,
    )
