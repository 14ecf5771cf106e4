"""What numpy's OpenBLAS and torch's OpenMP are told before they are loaded."""

import os
import subprocess
import sys

import pytest

from moe.environment import calm, settle

PROGRAM = """
import moe, os
print(os.environ.get("OPENBLAS_CORETYPE"), os.environ.get("OPENBLAS_L2_SIZE"))
from moe.nn import openblas
from moe.nn.processor import processor
print(openblas.fits(processor()) or processor() not in ("avx2", "avx512"))
"""


def test_what_fits_another_processor_is_dropped_and_threads_sleep() -> None:
    told = os.environ | {"OPENBLAS_CORETYPE": "Prescott", "OPENBLAS_L2_SIZE": "512"}
    for name in ("OPENBLAS_THREAD_TIMEOUT", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        told.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=told, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["None", "None", "True"]


def test_nothing_changes_once_numpy_is_loaded() -> None:
    import numpy  # noqa: F401

    environment = {"OPENBLAS_CORETYPE": "Haswell"}
    settle(environment)
    assert environment == {"OPENBLAS_CORETYPE": "Haswell"}


def test_what_the_user_says_of_waiting_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "numpy")
    for given in ({"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "9"}):
        environment = dict(given)
        settle(environment)
        assert environment == given | {"OPENBLAS_THREAD_TIMEOUT": "14"}
    settle(environment := {})
    assert environment == {"OPENBLAS_THREAD_TIMEOUT": "14", "GOMP_SPINCOUNT": "5000"}


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ({}, False),
        ({"OPENBLAS_THREAD_TIMEOUT": "14"}, False),
        ({"GOMP_SPINCOUNT": "5000"}, False),
        ({"OPENBLAS_THREAD_TIMEOUT": "14", "GOMP_SPINCOUNT": "5000"}, True),
        ({"OPENBLAS_THREAD_TIMEOUT": "26", "GOMP_SPINCOUNT": "5000"}, False),
        ({"OPENBLAS_THREAD_TIMEOUT": "14", "GOMP_SPINCOUNT": "300000"}, False),
        ({"OPENBLAS_THREAD_TIMEOUT": "14", "GOMP_SPINCOUNT": "INFINITE"}, False),
        ({"OPENBLAS_THREAD_TIMEOUT": "14", "OMP_WAIT_POLICY": "PASSIVE"}, True),
        ({"OPENBLAS_THREAD_TIMEOUT": "14", "OMP_WAIT_POLICY": "active"}, False),
    ],
)
def test_both_must_sleep_soon(told: dict[str, str], found: bool) -> None:
    assert calm(told) == found
