"""One reconciliation: observe, plan, act, and say in the status what is so now."""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from aligntune.api.job import AlignTuneJobSpec
from aligntune_operator.cache import Cache
from aligntune_operator.cluster import (
    ApiError,
    Cluster,
    ConflictError,
    GoneError,
    NotLeadingError,
    RefusedError,
)
from aligntune_operator.estimator import Estimator
from aligntune_operator.explanations import Explanations
from aligntune_operator.metrics import Metrics
from aligntune_operator.observe import (
    AlignTuneJobState,
    Explanation,
    Hindrance,
    Key,
    Observed,
)
from aligntune_operator.plan import (
    EXPLANATION_INTERVAL,
    Action,
    CreateJob,
    DeleteAlignTuneJob,
    DeleteJob,
    Explain,
    Wait,
    plan,
)
from aligntune_operator.preflight import Need, folder_in_use, needs
from aligntune_operator.queue import KeyedQueue
from aligntune_operator.render.job import job as render_job
from aligntune_operator.render.shared import shared_objects
from aligntune_operator.settings import Settings
from aligntune_operator.status.events import Posting, events
from aligntune_operator.status.reduce import reduce_status

logger = logging.getLogger(__name__)

MISSING_RETRY = timedelta(seconds=15)
"""How often a job is tried again that names what is not there or in use: nothing watches for it."""

SEEN_FOR = timedelta(seconds=60)
"""How long what a job names counts as there once it was seen: many jobs name the same claim."""

TOO_LARGE_RETRY = timedelta(seconds=60)
"""How often a job is estimated again that is too large for every GPU: larger ones may come."""

REFUSED_RETRY = timedelta(seconds=30)
"""How often a refused Job is tried again: a quota or a policy may have changed."""


class Controller:
    """Level-triggered: reconciling twice changes nothing.

    Dying at any await loses nothing, except Events that wait to be written, and a warning that was
    being estimated.

    Args:
        cache: All that is known.
        cluster: Where it acts.
        settings: The cluster's owner's.
        clock: Tells the time.
        estimator: Tells whether a job fits its GPUs, and takes those that have begun, to warn of
            them without keeping them waiting.
        post: Given the Events of each status that was written.
        others_first: Whether other jobs wait that are new.
    """

    def __init__(
        self,
        cache: Cache,
        cluster: Cluster,
        settings: Settings,
        clock: Callable[[], datetime],
        *,
        estimator: Estimator,
        post: Callable[[Posting], None],
        others_first: Callable[[], bool],
    ) -> None:
        self._cache = cache
        self._cluster = cluster
        self._settings = settings
        self._estimator = estimator
        self._post = post
        self._others_first = others_first
        self._clock = clock
        self._explanations = Explanations(cluster, clock)
        self._seen: dict[tuple[str, Need], datetime] = {}
        self._beginning: set[str] = set()
        """UIDs of jobs to whose folder no other is let: their Job is about to be created."""

    async def reconcile(self, key: Key) -> timedelta | None:
        """Brings one AlignTuneJob a step further.

        Returns:
            When to look again even if nothing happens; None if only an event can change anything.

        Raises:
            ApiError: Try again later.
        """
        observed = self._cache.observe(key)
        if observed is None:
            return None
        now = self._clock()
        actions = plan(observed, now)
        try:
            waits = [await self._act(observed, action, now) for action in actions]
        except ApiError:
            # The status says what is in the way.
            await self._write_status(key, now)
            raise
        has_begun = actions == [CreateJob(1)] and waits == [None]
        if has_begun and self._others_first():
            # Whoever creates many jobs waits for their pods first; what is told of this one by its
            # next turn is one write less.
            return timedelta(0)
        await self._write_status(key, now)
        return min((wait for wait in waits if wait is not None), default=None)

    async def _act(self, observed: Observed, action: Action, now: datetime) -> timedelta | None:
        key = observed.object.key
        match action:
            case Wait(until):
                return until - now
            case Explain(uids):
                message = await self._explanations.newest(key.namespace, uids)
                self._cache.note_explanation(observed.object.uid, Explanation(now, message))
                return EXPLANATION_INTERVAL
            case CreateJob(attempt) if observed.spec is not None:
                return await self._start(observed.object, observed.spec, attempt)
            case DeleteJob(name, uid):
                try:
                    self._cache.take_deleted_job(
                        uid, await self._cluster.delete_job(key, name, uid)
                    )
                except GoneError:
                    self._cache.jobs.forget(uid)
            case DeleteAlignTuneJob(uid):
                try:
                    await self._cluster.delete_align_tune_job(key, uid)
                except GoneError:
                    self._cache.objects.forget(uid)
        return None

    async def _start(
        self, state: AlignTuneJobState, spec: AlignTuneJobSpec, attempt: int
    ) -> timedelta | None:
        key, uid = state.key, state.uid
        try:
            if attempt == 1 and (found := await self._in_the_way(state, spec)):
                hindrance, again = found
                self._cache.note_hindrance(uid, hindrance)
                return again
            for manifest in shared_objects(key, uid, spec, self._settings):
                await self._cluster.create(manifest)
            job = render_job(
                key,
                uid,
                spec,
                attempt,
                self._settings,
                generation=state.generation,
                earlier=state.status.attempts,
                lineage=state.status.lineage,
                queue_labels=state.queue_labels,
            )
            created = await self._cluster.create(job)
        except RefusedError as error:
            self._cache.note_hindrance(uid, Hindrance("refused", error.message))
            return REFUSED_RETRY
        except ApiError as error:
            self._cache.note_hindrance(uid, Hindrance("failed", error.message))
            raise
        finally:
            self._beginning.discard(uid)
        self._cache.note_hindrance(uid, None)
        self._cache.note_explanation(uid, None)
        self._cache.take_job(created)
        if attempt == 1 and self._settings.estimates == "warn":
            self._estimator.begun.add(key)
        return None

    async def _in_the_way(
        self, state: AlignTuneJobState, spec: AlignTuneJobSpec
    ) -> tuple[Hindrance, timedelta] | None:
        """What keeps a job from beginning, and when to look again."""
        if in_use := folder_in_use(state, spec, self._cache.align_tune_jobs(), self._has_begun):
            return Hindrance("in use", in_use), MISSING_RETRY
        self._beginning.add(state.uid)
        if missing := await self._missing(state, spec):
            return Hindrance("missing", missing), MISSING_RETRY
        if self._settings.estimates != "refuse":
            return None
        shortage = await self._estimator.shortage(spec, state.status.lineage)
        return (Hindrance("too large", shortage), TOO_LARGE_RETRY) if shortage else None

    def _has_begun(self, state: AlignTuneJobState) -> bool:
        return state.uid in self._beginning or self._cache.has_begun(state)

    async def _missing(self, state: AlignTuneJobState, spec: AlignTuneJobSpec) -> str:
        """A sentence for each thing that the job names and that is not there."""
        namespace, now, sentences = state.key.namespace, self._clock(), []
        self._seen = {need: at for need, at in self._seen.items() if now - at < SEEN_FOR}
        for need in needs(spec, state.status.lineage, state.queue_labels, self._settings):
            if (namespace, need) in self._seen:
                continue
            if await self._cluster.exists(namespace, need.api, need.plural, need.name):
                self._seen[namespace, need] = now
            else:
                sentences.append(need.missing)
        return " ".join(sentences)

    async def _write_status(self, key: Key, now: datetime) -> None:
        observed = self._cache.observe(key)
        if observed is None or observed.object.deleting:
            return
        if observed.object.unreadable:
            logger.warning("%s: left alone: its status is of another version of this operator", key)
            return
        before, after = observed.object.status, reduce_status(observed, now)
        if after == before:
            return
        try:
            self._cache.take_written(await self._cluster.write_status(observed.object, after))
        except GoneError:
            self._cache.objects.forget(observed.object.uid)
            return
        state = observed.object
        for event in events(before, after):
            self._post(Posting(key, state.uid, state.resource_version, event, now))


async def work_forever(queue: KeyedQueue[Key], controller: Controller, metrics: Metrics) -> None:
    """One worker: takes keys from the queue and reconciles them, for ever."""
    while True:
        key = await queue.get()
        failed = True
        try:
            with metrics.reconcile_seconds.time():
                wait = await controller.reconcile(key)
            failed = False
            if wait is not None:
                queue.add_after(key, wait.total_seconds())
        except ConflictError as error:
            # The watch brings the newer version; the backoff is for the case that it is late.
            logger.info("%s: %s", key, error)
            queue.retry(key)
        except NotLeadingError:
            raise
        except ApiError as error:
            metrics.reconcile_errors.inc()
            seconds = queue.retry(key, error.retry_after)
            logger.warning("%s: %s Trying again in %.1f s.", key, error, seconds)
        except Exception:
            # The process's edge: one job that meets a bug must not stop the others.
            metrics.reconcile_errors.inc()
            seconds = queue.retry(key)
            logger.exception("%s: unexpected error, trying again in %.1f s", key, seconds)
        finally:
            queue.done(key, failed=failed)
