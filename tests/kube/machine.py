"""A machine within this one: namespaces of Linux in which a cluster of pods has room.

All that runs there ends with it, what it mounts and which ports it takes nobody sees, and no rights
of this machine are needed for it but that of making user namespaces.
"""

import subprocess
import sys
from pathlib import Path

from tests.kube.node.network import GATEWAY

_APART = [
    "unshare",
    *("--user", "--map-root-user", "--mount", "--net", "--pid"),
    *("--fork", "--kill-child", "--mount-proc"),
]
_NEEDED = (
    "ip link add b0 type bridge && ip link add v0 type veth peer name v1 && "
    "mount -t tmpfs tmpfs /mnt && mkdir /mnt/u /mnt/w && openssl version && wget --version && "
    "mount -t overlay overlay -o lowerdir=/etc,upperdir=/mnt/u,workdir=/mnt/w /etc"
)


def words(module: str, *arguments: str) -> list[str]:
    """Return the words that run a module as the first process of a machine of its own."""
    return [*_APART, sys.executable, "-m", module, *arguments]


def lacking() -> str:
    """Return why this machine has no room for another; empty if it has."""
    try:
        done = subprocess.run(
            [*_APART, "sh", "-c", _NEEDED], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return "unshare (util-linux) is not there"
    return "" if done.returncode == 0 else f"no namespaces for pods: {done.stderr.strip()[-200:]}"


def certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate of the API server that pods trust, and its key."""
    crt, key = folder / "ca.crt", folder / "key.pem"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=kubernetes", "-addext", f"subjectAltName=IP:{GATEWAY}"]
    subprocess.run(
        ["openssl", "req", "-x509", *curve, *names, "-keyout", str(key), "-out", str(crt)],
        check=True,
        capture_output=True,
    )
    return crt, key
