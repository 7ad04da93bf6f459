"""What runs inside the cluster's namespaces: `python -m tests.cluster.node STATE`.

This is the first process of a PID namespace. When it ends, for whatever reason, the kernel ends
everything that was started below it, and mounts, interfaces and firewall rules go as well.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

from tests.cluster.binaries import binary
from tests.cluster.certificates import Authority
from tests.cluster.control_plane import SERVICE_RANGE, Endpoint, audit_flags, start_components
from tests.cluster.images import PAUSE
from tests.cluster.network import NODE_ADDRESS, POD_RANGE, UPLINK, Link, identity, ip
from tests.cluster.processes import Processes

NODE = "node"
CLUSTER_DOMAIN = "cluster.local"

ADMISSION = (
    # By default from Kubernetes 1.36 on: a test can play what a platform makes of pods.
    "--feature-gates=MutatingAdmissionPolicy=true",
    "--runtime-config=admissionregistration.k8s.io/v1beta1=true",
    # OpenShift has it: an owner whose deletion is blocked must be the author's to change.
    "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
)
"""Flags of the API server."""

HIDDEN = ("/run", "/var")
"""Folders of the host that the node replaces by its own."""

KERNEL_SETTINGS = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1_000_000,
    "kernel/keys/root_maxbytes": 25_000_000,
}
"""What the kubelet would set for the whole machine. It is shown files that say so already."""


def cgroup(state: Path) -> str:
    """Name of the control group under which this cluster's pods run."""
    return f"aligntune-{identity(state)}"


def run(state: Path) -> None:
    """Starts everything, then reaps orphans for as long as it lives."""
    link = Link(state)
    processes = Processes(state, outlive_parent=True)
    _separate_file_systems(state)
    _start_containerd(state, processes)  # first: images are loaded while the rest starts
    processes.wait_until("the link to the host is there", _has_uplink)
    _set_up_network(link)

    endpoint = Endpoint(6443, host=link.cluster_address, bind="0.0.0.0", advertised=NODE_ADDRESS)
    flags = (*audit_flags(state, {"batch": ("jobs", "jobs/status")}), *ADMISSION)
    authority = start_components(state, processes, endpoint, with_scheduler=True, more_flags=flags)
    server = f"https://{NODE_ADDRESS}:{endpoint.port}"
    _start_kubelet(state, processes, authority, server)
    _start_kube_proxy(state, processes, authority, server)
    _start_coredns(state, processes)
    while True:
        os.wait()


def _separate_file_systems(state: Path) -> None:
    """Gives the cluster a /run and a /var of its own, on which the host's is not changed."""
    overlay = state / "var"
    for folder in ("upper", "work"):
        (overlay / folder).mkdir(parents=True)
    layers = f"lowerdir=/var,upperdir={overlay / 'upper'},workdir={overlay / 'work'}"
    _mount("--make-rshared", "/")
    _mount("-t", "overlay", "overlay", "-o", layers, "/var")
    _mount("-t", "tmpfs", "tmpfs", "/run")
    # Images are loaded anew on each start; on disk, syncing them took longer than all the rest.
    (state / "containerd").mkdir()
    _mount("-t", "tmpfs", "tmpfs", str(state / "containerd"))
    for setting, value in KERNEL_SETTINGS.items():
        stand_in = Path("/run", setting.replace("/", "."))
        stand_in.write_text(f"{value}\n")
        _mount("--bind", str(stand_in), f"/proc/sys/{setting}")


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _has_uplink() -> bool:
    return f"{UPLINK}:" in Path("/proc/net/dev").read_text()


def _set_up_network(link: Link) -> None:
    ip("link", "set", "lo", "up")
    ip("address", "add", f"{NODE_ADDRESS}/32", "dev", "lo")
    ip("address", "add", f"{link.cluster_address}/30", "dev", UPLINK)
    ip("link", "set", UPLINK, "up")
    # A Service's address has no rules for a moment. The host drops what is sent there, so that
    # clients try again, as on a real node; with no route at all they would fail at once.
    ip("route", "add", SERVICE_RANGE, "via", link.host_address)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def _start_containerd(state: Path, processes: Processes) -> None:
    networks = state / "cni"
    networks.mkdir()
    # Routed pods (ptp) rather than a bridge: replies of a Service's pod to a neighbour then pass
    # the node's address translation without the kernel's bridge filter.
    network = {
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [
            {
                "type": "ptp",
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": POD_RANGE, "gateway": NODE_ADDRESS}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }
    (networks / "pods.conflist").write_text(json.dumps(network))
    config = state / "containerd.toml"
    config.write_text(
        f"""\
version = 2
root = "{state}/containerd"
[plugins."io.containerd.internal.v1.opt"]
path = "{state}/containerd-opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
# Lowering a score below the parent's needs a capability that containers rarely have.
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{networks}"
"""
    )
    processes.start("containerd", "containerd", "--config", config)


def _start_kubelet(state: Path, processes: Processes, authority: Authority, server: str) -> None:
    serving = authority.issue("kubelet-serving", NODE_ADDRESS)
    client = authority.issue("kubelet", user=f"system:node:{NODE}", group="system:nodes")
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"x509": {"clientCAFile": str(authority.pair.certificate)}},
        "tlsCertFile": str(serving.certificate),
        "tlsPrivateKeyFile": str(serving.key),
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroup(state)}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "nodeLeaseDurationSeconds": 8,
        "clusterDNS": [NODE_ADDRESS],
        "clusterDomain": CLUSTER_DOMAIN,
        "resolvConf": "",
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "serializeImagePulls": False,
        # The disk is the developer's: a full one must not cost the cluster its only images.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "1%",
        },
    }
    file = state / "kubelet.yaml"
    file.write_text(yaml.safe_dump(config))
    processes.start(
        "kubelet",
        binary("kubelet"),
        f"--config={file}",
        f"--kubeconfig={authority.kubeconfig(state / 'kubelet.kubeconfig', server, client)}",
        f"--hostname-override={NODE}",
        f"--node-ip={NODE_ADDRESS}",
    )


def _start_kube_proxy(state: Path, processes: Processes, authority: Authority, server: str) -> None:
    client = authority.issue("kube-proxy", user="system:kube-proxy")
    processes.start(
        "kube-proxy",
        binary("kube-proxy"),
        f"--kubeconfig={authority.kubeconfig(state / 'kube-proxy.kubeconfig', server, client)}",
        f"--hostname-override={NODE}",
        "--proxy-mode=iptables",
        f"--cluster-cidr={POD_RANGE}",
        # Limits on tracked connections belong to the whole machine: left alone.
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-established=0",
        "--conntrack-tcp-timeout-close-wait=0",
    )


def _start_coredns(state: Path, processes: Processes) -> None:
    config = state / "Corefile"
    config.write_text(
        f"""\
.:53 {{
    bind {NODE_ADDRESS}
    errors
    kubernetes {CLUSTER_DOMAIN} in-addr.arpa {{
        kubeconfig {state}/kubeconfig
    }}
}}
"""
    )
    processes.start("coredns", binary("coredns"), "-conf", config)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
