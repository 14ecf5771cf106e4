"""What numpy's OpenBLAS and torch's OpenMP read from the environment, once, when they are loaded.

Products of a layer may go to OpenBLAS (``moe.nn.openblas``) between operations of torch, on the
same cores. Some settings make that slow:

- Idle threads spin, by default: those of OpenBLAS for 26 ms after a product, those of OpenMP for
  about 5 ms after an operation. Each takes the cores that the other needs. Here they sleep after
  some microseconds.
- ``OPENBLAS_CORETYPE`` names the kernels to take, ``OPENBLAS_L2_SIZE`` the cache that they count
  on. Some machines set both for an old build that does not know their processor; numpy's does, and
  would run at half speed with what fits another. Here both are dropped.

``moe`` applies this when it is imported. It changes nothing if numpy is loaded already, which torch
does too: who needs other settings imports numpy first.
"""

import sys
from collections.abc import Mapping, MutableMapping

OPENBLAS_SLEEP = "OPENBLAS_THREAD_TIMEOUT"
"""The logarithm of the processor cycles after which an idle thread of OpenBLAS sleeps."""

OPENMP_SPINS = "GOMP_SPINCOUNT"
"""How often an idle thread of OpenMP looks for work before it sleeps."""

OPENMP_POLICY = "OMP_WAIT_POLICY"
SHORT = {OPENBLAS_SLEEP: 14, OPENMP_SPINS: 5000}
"""Measured with both libraries in turns on two cores (benchmarks/README.md)."""

LONGEST = {OPENBLAS_SLEEP: 16, OPENMP_SPINS: 20_000}
"""From more on, one library's idle threads slow the other."""

FOR_OLD_BUILDS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


def settle(environment: MutableMapping[str, str]) -> None:
    """Set what both read, unless they are loaded; what the user has set about waiting stays."""
    if "numpy" in sys.modules:
        return
    environment.setdefault(OPENBLAS_SLEEP, str(SHORT[OPENBLAS_SLEEP]))
    if OPENMP_POLICY not in environment:
        environment.setdefault(OPENMP_SPINS, str(SHORT[OPENMP_SPINS]))
    for name in FOR_OLD_BUILDS:
        environment.pop(name, None)


def calm(environment: Mapping[str, str]) -> bool:
    """Tell whether idle threads of both sleep soon."""
    if not _short(environment, OPENBLAS_SLEEP):
        return False
    if OPENMP_SPINS in environment:
        return _short(environment, OPENMP_SPINS)
    return environment.get(OPENMP_POLICY, "").lower() == "passive"


def _short(environment: Mapping[str, str], name: str) -> bool:
    value = environment.get(name, "")
    return value.isdecimal() and int(value) <= LONGEST[name]
