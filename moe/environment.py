"""What numpy's OpenBLAS reads from the environment, once, when numpy is loaded.

Products of a layer may go to it (``moe.nn.openblas``), between products of torch. Two settings make
that slow:

- Its idle threads spin for 26 ms after a product, by default, on cores that torch's threads need.
  Here they sleep at once.
- ``OPENBLAS_CORETYPE`` names the kernels to take. Some machines set it for an old build that does
  not know their processor; numpy's does, and would run at half speed with another's kernels. Here
  it is dropped.

``moe`` applies this when it is imported. It changes nothing if numpy is loaded already: who needs
other settings imports numpy first.
"""

import sys
from collections.abc import MutableMapping

SLEEP = "OPENBLAS_THREAD_TIMEOUT"
"""The logarithm of the processor cycles after which an idle thread of OpenBLAS sleeps."""

SHORTEST = 4
"""The least that OpenBLAS takes: 16 cycles."""

KERNELS = "OPENBLAS_CORETYPE"


def settle(environment: MutableMapping[str, str]) -> None:
    """Set what OpenBLAS reads, unless numpy has loaded it."""
    if "numpy" in sys.modules:
        return
    environment.setdefault(SLEEP, str(SHORTEST))
    environment.pop(KERNELS, None)
