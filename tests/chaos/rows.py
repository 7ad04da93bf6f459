"""The fault table of the control plane: what happens to the operator and its cluster.

Each row lets its fault loose while six jobs run through their lives: two that train to the end, two
that lose a peer first, two whose data is bad. `invariants.check` then says what must hold.
"""

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import httpx
import psutil

from aligntune.api.labels import JOB_NAME
from tests.chaos.endpoints import GARBAGE, LIE, Dialect, newer, older, unreachable
from tests.chaos.proxy import a_watch, a_write, anything
from tests.chaos.world import ALIGN_TUNE_JOBS, FINAL, Object, World, make_namespace


class Row(NamedTuple):
    """A fault."""

    name: str
    fault: Callable[[World], None]
    what: str
    """In words, for docs/chaos.md."""
    short: bool = False
    """Part of `make test`, too."""
    replicas: int = 1
    alone: bool = False
    """It shakes the control plane, and so every other row."""
    jobs: int = 2
    """Of each kind."""
    fake_nodes: int = 0
    """On which kwok lets pods live and end; none: a stand-in for the kubelet does."""
    clock_hours: int = 0
    """What the operator's clock is ahead of the API server's."""
    account: bool = False
    """The operator is a service account with rights in its namespaces alone, not the administrator.
    """
    beside: bool = False
    """It watches a second namespace."""


def operator_killed(world: World) -> None:
    for _ in range(3):
        world.some_time()
        world.kill(world.operator)


def leader_stopped_past_its_lease(world: World) -> None:
    world.some_time()
    leader = world.leader()
    leader.send(signal.SIGSTOP)
    others = [replica for replica in world.replicas if replica is not leader]
    world.until("another leads", lambda: any(replica.leads for replica in others))
    world.apply("done-late", "wrong-late")
    world.some_time()
    leader.send(signal.SIGCONT)
    world.until("it has ended", lambda: bool(world.exits))


def api_server_restarted(world: World) -> None:
    for _ in range(2):
        world.some_time()
        world.control_plane.restart("kube-apiserver")


def etcd_restarted(world: World) -> None:
    for _ in range(2):
        world.some_time()
        world.control_plane.restart("etcd")


def connections_cut(world: World) -> None:
    for _ in range(10):
        world.some_time(1)
        world.proxy.cut()
    until_felt(world)


def until_felt(world: World) -> None:
    """A fault that nobody met would be none."""
    world.until("a request met the fault", lambda: world.proxy.done > 0)


def network_swallows_everything(world: World) -> None:
    world.some_time()
    with world.proxy.blackhole():
        world.apply("done-meanwhile")
        world.some_time(20, least=5)


def server_slow(world: World) -> None:
    with world.proxy.slow(world.rng.uniform(1, 5)):
        world.some_time(10, least=3)


def watches_expired(world: World) -> None:
    for _ in range(4):
        world.proxy.answer(410, a_watch, times=3)
        world.proxy.cut()
        world.some_time()
    until_felt(world)


def server_overloaded(world: World) -> None:
    world.some_time()
    world.proxy.answer(429, anything, times=20)
    world.proxy.cut()
    world.some_time()
    until_felt(world)


def server_fails(world: World) -> None:
    world.some_time()
    world.proxy.answer(500, anything, times=20)
    world.proxy.cut()
    world.some_time()
    until_felt(world)


def server_fails_for_minutes(world: World) -> None:
    world.leader()
    world.some_time()
    errors = iter(lambda: world.rng.choice((500, 502, 503, 504)), None)
    with world.proxy.failing(errors):
        world.proxy.cut()
        world.tend_for(world.rng.uniform(125, 150))
    until_felt(world)


def writes_refused_for_a_moment(world: World) -> None:
    for _ in range(5):
        world.some_time(1)
        world.proxy.answer(world.rng.choice((409, 500, 503)), a_write, times=3)
    until_felt(world)


def credentials_refused(world: World) -> None:
    world.some_time()
    world.proxy.answer(401, a_watch, times=3)
    world.proxy.answer(401, anything, times=3)
    world.proxy.cut()
    world.some_time()
    until_felt(world)


def token_expires(world: World) -> None:
    """It is renewed only when the API server takes it no longer, and some seconds after that."""
    assert world.account is not None
    for number in range(2):
        refused = world.proxy.answered[401]
        world.account.renew(seconds=15)
        world.apply(f"done-before-{number}")

        def met(refused: int = refused) -> bool:
            world.proxy.cut()  # the API server asks nobody anew whose watch is open
            world.some_time(3, least=2)
            return world.proxy.answered[401] > refused

        world.until("the API server takes the token no longer", met)
        world.apply(f"done-after-{number}", f"retried-after-{number}")
        world.some_time(10, least=5)
        world.account.renew()


def deleted_while_the_operator_is_down(world: World) -> None:
    world.some_time()
    world.operator.stop(signal.SIGKILL)
    for name in ("done-0", "retried-0"):
        world.delete_job(name)
        world.names.remove(name)
    world.some_time()
    world.operator.start()


def deleted_and_applied_again(world: World) -> None:
    for _ in range(3):
        world.some_time()
        for name in ("done-0", "retried-0", "wrong-0"):
            world.delete_job(name)
            world.apply(name)


HELD = ("held-0", "held-1")
"""They train until they may end, so that no fault finds them over."""


def job_deleted_by_hand(world: World) -> None:
    world.apply(*HELD)
    for name, propagation in zip(HELD, ("Foreground", "Background"), strict=True):

        def delete(pod: Object, propagation: str = propagation) -> None:
            job = pod["metadata"]["labels"]["batch.kubernetes.io/job-name"]
            world.kubelet.saving.set()
            world.delete("jobs", job, "apis/batch/v1", propagationPolicy=propagation)
            world.some_time(16, least=14)  # longer than the next attempt waits
            world.kubelet.saving.clear()

        world.some_time()
        world.strike(name, delete)
    world.kubelet.may_end.set()


def pod_deleted(world: World, **options: int) -> None:
    world.apply(*HELD)
    for name in HELD:
        world.some_time()
        world.strike(name, lambda pod: world.delete("pods", pod["metadata"]["name"], **options))
    world.kubelet.may_end.set()


def pod_deleted_by_force(world: World) -> None:
    pod_deleted(world, gracePeriodSeconds=0)


def quota_refuses_the_pods(world: World) -> None:
    refused = ("done-refused", "retried-refused")
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none"},
        "spec": {"hard": {"pods": "0"}},
    }
    world.server("POST", f"/api/v1/namespaces/{world.namespace}/resourcequotas", quota)
    world.until(
        "the quota is in force", lambda: "hard" in world.every("resourcequotas")[0]["status"]
    )
    world.apply(*refused)
    for name in refused:
        world.until(f"{name} says why", lambda name=name: "exceeded quota" in says(world, name))
    assert not any(world.every("pods", selector=f"{JOB_NAME}={name}") for name in refused)
    world.delete("resourcequotas", "none")


def pod_security_refuses_the_pods(world: World) -> None:
    """The other jobs' pods meet the standard, and go on."""
    refused = ("done-refused", "retried-refused")
    enforce(world, "restricted")
    world.apply(*refused, runtime={"gpusPerNode": 0, "lockMemory": True})
    for name in refused:
        world.until(
            f"{name} says why", lambda name=name: "violates PodSecurity" in says(world, name), 60
        )
    assert not any(world.every("pods", selector=f"{JOB_NAME}={name}") for name in refused)
    others = [name for name in world.names if name not in refused]
    world.until("the others end", lambda: all(world.phase(name) in FINAL for name in others))
    enforce(world, "privileged")


def enforce(world: World, standard: str) -> None:
    """Sets the Pod Security Standard of the namespace."""
    patch = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": standard}}}
    path = f"/api/v1/namespaces/{world.namespace}"
    world.server("PATCH", path, patch, **{"Content-Type": "application/merge-patch+json"})


def says(world: World, name: str) -> str:
    """Why a job has no pods yet, by its status."""
    conditions = world.status(name).get("conditions", ())
    return next((str(one["message"]) for one in conditions if one["type"] == "Running"), "")


def namespace_deleted(world: World) -> None:
    world.some_time()
    world.server("DELETE", f"/api/v1/namespaces/{world.namespace}")
    world.names.clear()


def namespace_removed(world: World) -> None:
    """The operator's rights go first, so that no watch tells it what is deleted."""
    removed, account = world.beside, world.account
    assert removed is not None
    assert account is not None
    path = f"/api/v1/namespaces/{removed.namespace}"
    again = ("done-0", "retried-0", "wrong-0", "held-0")
    removed.apply("held-before", *again)
    for name in ("held-before", "held-0"):
        removed.until_running(name)
        world.until(f"{name} is counted", lambda name=name: counts(world, removed, name))
    with steady_jobs(world):
        account.shut_out(removed.namespace)
        world.proxy.cut()
        world.until("the operator is refused", lambda: world.proxy.answered[403] > 0)
        world.server("DELETE", path)
        removed.names.clear()
        world.until("the namespace is gone", lambda: gone(world, path))
        world.until("nothing is told of it", lambda: not counts(world, removed, "held-before"), 60)
        until_told(world)
        make_namespace(world.server, removed.namespace, account)
        removed.apply(*again)
        removed.kubelet.may_end.set()
        removed.until("they end", lambda: all(removed.phase(name) in FINAL for name in again), 120)
        assert not counts(world, removed, "held-before")


def counts(world: World, where: World, name: str) -> bool:
    """Whether the operator knows a job, by its metrics."""
    labels = f'aligntunejob="{name}",namespace="{where.namespace}"'
    return any(labels in series for series in world.operator.metrics())


def gone(world: World, path: str) -> bool:
    try:
        world.server("GET", path)
    except httpx.HTTPStatusError as error:
        return error.response.status_code == httpx.codes.NOT_FOUND
    return False


def others_write_all_the_time(world: World) -> None:
    for number in range(40):
        name = world.rng.choice(world.names)
        patch = {"metadata": {"annotations": {"chaos": str(number)}}}
        path = f"/{ALIGN_TUNE_JOBS}/namespaces/{world.namespace}/aligntunejobs/{name}"
        world.server("PATCH", path, patch, **{"Content-Type": "application/merge-patch+json"})
        world.some_time(0.2)


STEADY = ("steady-0", "steady-1")
MOST_MEMORY = 200 * 2**20
"""Of an operator that has been told of a handful of jobs."""


@contextmanager
def steady_jobs(world: World) -> Iterator[None]:
    """Jobs that train through the fault; what they report is in their status before and after."""
    world.apply(*STEADY)
    until_told(world)
    yield
    until_told(world)
    world.kubelet.may_end.set()


def until_told(world: World) -> None:
    for name in STEADY:
        before = world.step(name)
        world.until(
            f"{name} is heard of", lambda name=name, before=before: hears(world, name, before)
        )


def hears(world: World, name: str, before: int) -> bool:
    return world.step(name) > before and not world.progress_unknown(name)


def until_silent(world: World) -> None:
    """Until the status says that nobody credible answers, and no step but a trainer's own."""
    own = {name: world.step(name) for name in STEADY}
    for name in STEADY:
        world.until(f"{name} is silent", lambda name=name: world.progress_unknown(name))
        assert own[name] // 1000 == world.step(name) // 1000, f"{name} told another's step"


def endpoints_answer_garbage(world: World) -> None:
    with steady_jobs(world), world.kubelet.pods.answering(*GARBAGE):
        until_silent(world)
        world.some_time(10)
        assert all(world.step(name) < LIE for name in STEADY)
        assert psutil.Process(world.operator.pid).memory_info().rss < MOST_MEMORY


def pods_unreachable(world: World) -> None:
    with steady_jobs(world), world.kubelet.pods.answering(unreachable):
        until_silent(world)
        world.some_time(10)


def address_reused(world: World) -> None:
    with steady_jobs(world):
        pods = [world.until_running(name)["metadata"]["name"] for name in STEADY]
        with world.kubelet.pods.swapped(*pods):
            until_silent(world)


def trainer_is_older(world: World) -> None:
    told_in(world, older)
    assert world.status("retried-other")["attempts"]["history"][0]["reason"] == "NcclError"


def trainer_is_newer(world: World) -> None:
    world.lost_peer |= {"Unknown"}
    told_in(world, newer)
    assert world.status("retried-other")["attempts"]["history"][0]["reason"] == "Unknown"


def told_in(world: World, dialect: Dialect) -> None:
    """Jobs whose trainers are of another version: what they say is understood all the same."""
    world.kubelet.pods.dialect = dialect
    with steady_jobs(world):
        world.apply("done-other", "retried-other", "wrong-other")
    for name in ("done-other", "retried-other", "wrong-other"):
        world.until(f"{name} is over", lambda name=name: world.phase(name) in FINAL)
    assert world.status("done-other")["model"]["path"] == "model"
    assert world.status("wrong-other")["failure"]["reason"] == "DataError"


def clock_is_wrong(world: World) -> None:
    """Whatever waits from a time on that the API server wrote: for pods to end, for last words."""
    slow, silent = "held-slow", "held-silent"
    world.apply(slow, silent)
    pods = {name: world.until_running(name)["metadata"]["name"] for name in (slow, silent)}
    world.kubelet.saving.set()
    world.delete("pods", pods[slow])
    world.delete("pods", pods[silent], gracePeriodSeconds=0)
    world.some_time(8, least=4)
    world.kubelet.saving.clear()
    world.kubelet.may_end.set()
    world.struck |= {(slow, 1), (silent, 1)}
    world.until(f"{slow} is over", lambda: world.phase(slow) in FINAL)
    assert world.status(slow)["attempts"]["history"][0]["reason"] == "Preempted"


def fleet(world: World) -> None:
    world.some_time(10)
    world.kill(world.operator)
    world.some_time(10)
    world.operator.send(signal.SIGSTOP)
    world.some_time(10)
    world.operator.send(signal.SIGCONT)
    world.proxy.cut()
    world.some_time(10)
    world.control_plane.restart("kube-apiserver")
    world.some_time(10)
    world.proxy.cut()
    world.kill(world.operator)


GANG_PODS = 4
"""Of each gang, a GPU each; and the GPUs that there are: enough for one gang."""
MOST_PAIRS = 5
"""Of gangs, until two hold a part of the GPUs each."""


def gangs_half_fit(world: World) -> None:
    """Where one gang is given all GPUs at once there is no fault, and two others ask."""
    pairs = ((f"gang-{number}-a", f"gang-{number}-b") for number in range(MOST_PAIRS))
    assert any(half_fit(world, *pair) for pair in pairs), "one gang was given all GPUs each time"


def half_fit(world: World, *gangs: str) -> bool:
    """Has gangs ask at once for GPUs that are enough for one; whether each held a part of them."""
    give_gpus(world, 0)
    runtime = {"nodes": GANG_PODS, "gpusPerNode": 1}
    world.apply(*gangs, runtime=runtime, policy={"startTimeoutSeconds": 20})
    wanted = GANG_PODS * len(gangs)
    world.until("all pods wait", lambda: sum(len(pods_of(world, one)) for one in gangs) == wanted)
    give_gpus(world, 1)
    held: list[int] = []

    def all_given() -> bool:
        held[:] = [len(running(world, name)) for name in gangs]
        return sum(held) == GANG_PODS

    world.until("every GPU is held", all_given)
    world.until("both gangs end", lambda: end_together(world, gangs))
    if not all(held):
        return False
    ends = [world.status(name)["attempts"]["history"][0]["reason"] for name in gangs]
    assert "Unschedulable" in ends, f"nobody let go: {ends}"
    return True


def give_gpus(world: World, each: int) -> None:
    """Says how many GPUs each fake node has."""
    count = {"nvidia.com/gpu": str(each)}
    patch = {"status": {"capacity": count, "allocatable": count}}
    for node in world.server("GET", "/api/v1/nodes")["items"]:
        path = f"/api/v1/nodes/{node['metadata']['name']}/status"
        world.server("PATCH", path, patch, **{"Content-Type": "application/merge-patch+json"})


def end_together(world: World, gangs: Iterable[str]) -> bool:
    """Lets each gang of which all pods run end; whether all have ended."""
    patch = {"metadata": {"annotations": {"gang": "complete"}}}
    for name in gangs:
        pods = running(world, name)
        for pod in pods if len(pods) == GANG_PODS else ():
            path = f"/api/v1/namespaces/{world.namespace}/pods/{pod['metadata']['name']}"
            try:
                world.server(
                    "PATCH", path, patch, **{"Content-Type": "application/merge-patch+json"}
                )
            except httpx.HTTPStatusError as error:
                if error.response.status_code != httpx.codes.NOT_FOUND:
                    raise  # else it was let go a moment before it was complete
    return all(world.phase(name) in FINAL for name in gangs)


def pods_of(world: World, name: str) -> list[Object]:
    """The pods of a job that are there to stay."""
    found = world.every("pods", selector=f"{JOB_NAME}={name}")
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def running(world: World, name: str) -> list[Object]:
    return [pod for pod in pods_of(world, name) if pod["status"].get("phase") == "Running"]


ROWS = (
    Row("operator-killed", operator_killed, "the operator is killed three times", short=True),
    Row(
        "leader-stopped",
        leader_stopped_past_its_lease,
        "the leader of two replicas is stopped (SIGSTOP) past its lease, and wakes up",
        replicas=2,
    ),
    Row("api-server-restarted", api_server_restarted, "the API server is killed twice", alone=True),
    Row("etcd-restarted", etcd_restarted, "etcd is killed twice", alone=True),
    Row("connections-cut", connections_cut, "all connections break, ten times", short=True),
    Row(
        "blackhole",
        network_swallows_everything,
        "the network swallows everything for up to 20 s, watches stay open and silent",
    ),
    Row("slow", server_slow, "each request takes seconds"),
    Row("watch-expired", watches_expired, "watches end with 410 Gone"),
    Row("overloaded", server_overloaded, "requests and watches are answered with 429"),
    Row("server-fails", server_fails, "requests and watches are answered with 500"),
    Row(
        "server-fails-for-minutes",
        server_fails_for_minutes,
        "for over two minutes, what both replicas ask is answered with 500, 502, 503 and 504",
        replicas=2,
    ),
    Row(
        "writes-refused",
        writes_refused_for_a_moment,
        "writes are answered with 409, 500 and 503",
        short=True,
    ),
    Row(
        "unauthorized",
        credentials_refused,
        "requests and watches are answered with 401",
        short=True,
    ),
    Row(
        "token-expired",
        token_expires,
        "the operator's token expires twice, and is renewed some seconds too late",
        account=True,
    ),
    Row(
        "deleted-meanwhile",
        deleted_while_the_operator_is_down,
        "AlignTuneJobs are deleted while the operator is down",
    ),
    Row(
        "applied-again",
        deleted_and_applied_again,
        "AlignTuneJobs are deleted and at once applied again under their names, three times",
        short=True,
    ),
    Row(
        "job-deleted",
        job_deleted_by_hand,
        "Jobs are deleted by hand, and their pods take seconds over a checkpoint",
    ),
    Row("pod-deleted", pod_deleted, "running pods are deleted"),
    Row("pod-force-deleted", pod_deleted_by_force, "running pods are deleted by force"),
    Row("quota", quota_refuses_the_pods, "a quota refuses the pods until the status says so"),
    Row(
        "pod-security",
        pod_security_refuses_the_pods,
        "the namespace enforces Pod Security's restricted standard, which some jobs' pods violate,"
        " until the status says so",
    ),
    Row("namespace-deleted", namespace_deleted, "the namespace is deleted under running jobs"),
    Row(
        "namespace-removed",
        namespace_removed,
        "one of two watched namespaces is deleted with the operator's rights in it, under running"
        " jobs, and made again with jobs of the same names",
        account=True,
        beside=True,
    ),
    Row(
        "others-write", others_write_all_the_time, "others write to the AlignTuneJobs all the time"
    ),
    Row(
        "garbage",
        endpoints_answer_garbage,
        "progress endpoints answer with other pods' reports, no numbers, no JSON, too much, too"
        " slowly, redirects",
    ),
    Row("pods-unreachable", pods_unreachable, "nothing gets from the operator to the pods"),
    Row("address-reused", address_reused, "two pods have each other's address"),
    Row(
        "older-trainer",
        trainer_is_older,
        "trainers report and end in the words of a first version",
    ),
    Row(
        "newer-trainer",
        trainer_is_newer,
        "trainers report and end with fields, activities and causes of a version to come",
        short=True,
    ),
    Row(
        "clock-ahead",
        clock_is_wrong,
        "the operator's clock is an hour ahead, and running pods are deleted",
        clock_hours=1,
    ),
    Row(
        "clock-behind",
        clock_is_wrong,
        "the operator's clock is an hour behind, and running pods are deleted",
        clock_hours=-1,
    ),
    Row(
        "fleet",
        fleet,
        "through the lives of 300 jobs on fake nodes the operator is killed twice and stopped"
        " (SIGSTOP), the API server is killed, connections break",
        alone=True,
        jobs=100,
        fake_nodes=10,
    ),
    Row(
        "gangs-half-fit",
        gangs_half_fit,
        "two gangs hold a part each of the GPUs that are enough for one",
        alone=True,
        jobs=1,
        fake_nodes=4,
    ),
)
