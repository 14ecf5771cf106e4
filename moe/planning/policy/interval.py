"""How often copies or checkpoints are taken: Young's formula (1974).

A save that costs S seconds every I seconds, and failures every M seconds, lose S / I of the time to
saves and I / (2 M) to repeated work. The sum is least at I = sqrt(2 S M).
"""

import math

from moe.errors import PlanError

ASSUMED_SECONDS = 6 * 3600.0
"""From one failure to the next, in a run that has seen none yet."""


def young_interval(save_seconds: float, mtbf_seconds: float) -> float:
    """Return the seconds between saves that cost least, to first order."""
    return math.sqrt(2.0 * save_seconds * mtbf_seconds)


def expected_seconds(elapsed_seconds: float, failures: int) -> float:
    """Return the seconds expected from one failure to the next, anywhere in the run.

    ``failures`` were seen in ``elapsed_seconds``. One failure in ``ASSUMED_SECONDS`` is counted
    before the first, so that a young run has an answer and an old one that of its own failures.
    """
    if failures < 0 or not 0 <= elapsed_seconds < math.inf:
        raise PlanError(
            f"{failures} failures in {elapsed_seconds} s; give a count and a finite time from 0 on"
        )
    return (ASSUMED_SECONDS + elapsed_seconds) / (1 + failures)


def save_every(
    cost_seconds: float, hidden_seconds: float, step_seconds: float, mtbf_seconds: float
) -> int:
    """Return the steps from one save to the next that cost least; at least 1.

    ``cost_seconds`` is what a save adds to training: its stall, and what it slows the steps down.
    ``hidden_seconds`` is how long it then travels behind the steps: the next one waits for it.
    """
    costs = (cost_seconds, hidden_seconds)
    if not all(0 <= each < math.inf for each in costs) or not 0 < step_seconds < math.inf:
        raise PlanError(
            f"a save costs {cost_seconds} s and travels {hidden_seconds} s beside steps of "
            f"{step_seconds} s; give finite times, the step's above 0"
        )
    if not 0 < mtbf_seconds < math.inf:
        raise PlanError(f"failures come every {mtbf_seconds} s; give a finite time above 0")
    interval = max(young_interval(cost_seconds, mtbf_seconds), hidden_seconds)
    return max(1, math.ceil(interval / step_seconds))
