"""What numpy's OpenBLAS is told before it is loaded."""

import os
import subprocess
import sys

from moe.environment import settle

PROGRAM = """
import moe, os
print(os.environ.get("OPENBLAS_CORETYPE"), os.environ["OPENBLAS_THREAD_TIMEOUT"])
from moe.nn import openblas
from moe.nn.processor import processor
print(openblas.fits(processor()) or processor() not in ("avx2", "avx512"), openblas.calm())
"""


def test_kernels_of_another_processor_are_dropped_and_threads_sleep() -> None:
    told = os.environ | {"OPENBLAS_CORETYPE": "Prescott"}
    told.pop("OPENBLAS_THREAD_TIMEOUT", None)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=told, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["None", "4", "True", "True"]


def test_nothing_changes_once_numpy_is_loaded() -> None:
    import numpy  # noqa: F401

    environment = {"OPENBLAS_CORETYPE": "Haswell"}
    settle(environment)
    assert environment == {"OPENBLAS_CORETYPE": "Haswell"}
