"""Addresses of a cluster that lives in a network namespace, and its one link to the host."""

import hashlib
import subprocess
from ipaddress import IPv4Address
from pathlib import Path

UPLINK = "host0"
NODE_ADDRESS = "10.244.0.1"
POD_RANGE = "10.244.0.0/24"
"""The same in every cluster: each has a network namespace of its own."""

_LINKS = IPv4Address("10.243.0.0")


class Link:
    """A pair of interfaces from the host into one cluster, told apart by the state folder.

    It disappears with the cluster's network namespace, which the kernel may take a minute to
    clear away; `detach` does not wait for that.
    """

    def __init__(self, state: Path) -> None:
        self.name = f"at-{identity(state)}"
        first = _LINKS + int(identity(state), 16) % 2**14 * 4
        self.host_address = str(first + 1)
        self.cluster_address = str(first + 2)

    def attach(self, pid: int) -> None:
        """Makes the pair, one end in the network namespace of this process."""
        ip("link", "add", self.name, "type", "veth", "peer", "name", UPLINK, "netns", str(pid))
        ip("address", "add", f"{self.host_address}/30", "dev", self.name)
        ip("link", "set", self.name, "up")

    def detach(self) -> None:
        """Removes the pair, if the kernel has not done so."""
        subprocess.run(["ip", "link", "delete", self.name], check=False, capture_output=True)

    def detached(self) -> bool:
        return not Path("/sys/class/net", self.name).exists()


def identity(state: Path) -> str:
    """Eight hexadecimal digits that name what a cluster makes outside of its folder."""
    return hashlib.sha256(str(state).encode()).hexdigest()[:8]


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
