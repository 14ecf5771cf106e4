"""The network of pods: each has an address of its own on a bridge, as pods have in a cluster.

Only inside a network namespace of its own (``tests.kube.machine``): this machine does not see it.
"""

import itertools
import subprocess
from threading import Lock

GATEWAY = "10.77.0.1"
"""Where pods find the API server, and the first address of the network."""

_BRIDGE = "pods"


class Network:
    """A bridge, and who has which address on it."""

    def __init__(self) -> None:
        self._numbers = itertools.count(2)
        self._lock = Lock()
        _ip(
            "link set lo up",
            f"link add {_BRIDGE} type bridge",
            f"address add {GATEWAY}/16 dev {_BRIDGE}",
            f"link set {_BRIDGE} up",
        )

    def join(self, pid: int) -> str:
        """Connect the network namespace of a process; return its address."""
        with self._lock:
            number = next(self._numbers)
        address, own = f"10.77.{number // 250}.{number % 250 + 2}", f"pod{number}"
        _ip(
            f"link add {own} type veth peer name eth0 netns {pid}",
            f"link set {own} master {_BRIDGE} up",
        )
        _ip(
            "link set lo up",
            f"address add {address}/16 dev eth0",
            "link set eth0 up",
            f"route add default via {GATEWAY}",
            before=("nsenter", f"--net=/proc/{pid}/ns/net"),
        )
        return address


def _ip(*lines: str, before: tuple[str, ...] = ()) -> None:
    words = [*before, "ip", "-batch", "-"]
    subprocess.run(words, input="\n".join(lines), text=True, check=True, capture_output=True)
