"""How long the chart takes from `helm install` to Ready, and what an idle operator costs.

    python bench/install.py        # as root

On a cluster with a kubelet, with the images on the node, three times over. Then the two replicas
are left alone for two minutes; memory is each process's resident set, CPU its share of one core.
"""

import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.cluster import packages  # noqa: E402 - the tests are no package of ours
from tests.cluster.cluster import Cluster  # noqa: E402
from tests.cluster.helm import BUILT_IMAGES, CHART, NAMESPACE, RELEASE, helm, sets  # noqa: E402

INSTALLS, IDLE_SECONDS = 3, 120


def replicas() -> list[psutil.Process]:
    """The operators' processes, as the host sees them."""
    command = ["python3", "-m", "aligntune_operator"]
    return [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == command]


def main() -> None:
    packages.require()
    with Cluster(ROOT / ".cache" / "bench-install") as cluster:
        cluster.kubectl("create", "namespace", NAMESPACE)
        where = ("--namespace", NAMESPACE)
        for number in range(INSTALLS):
            began = time.monotonic()
            helm("install", RELEASE, CHART, *where, *sets(BUILT_IMAGES),
                 kubeconfig=cluster.kubeconfig)  # fmt: skip
            told = time.monotonic()
            cluster.kubectl("-n", NAMESPACE, "rollout", "status", f"deployment/{RELEASE}")
            ready = time.monotonic()
            print(f"helm install {told - began:.1f} s, both replicas ready {ready - began:.1f} s")
            if number < INSTALLS - 1:
                helm("uninstall", RELEASE, *where, "--wait", kubeconfig=cluster.kubeconfig)

        subprocess.run(["sleep", "20"], check=True)
        before = [(p, sum(p.cpu_times()[:2])) for p in replicas()]
        subprocess.run(["sleep", str(IDLE_SECONDS)], check=True)
        for process, used in before:
            share = (sum(process.cpu_times()[:2]) - used) / IDLE_SECONDS
            memory = process.memory_info().rss / 2**20
            print(f"idle replica: {memory:.0f} MiB resident, {share:.2%} of a core")
        print(f"load {psutil.getloadavg()}")


if __name__ == "__main__":
    main()
