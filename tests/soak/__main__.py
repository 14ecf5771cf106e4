"""``make soak``: hurts a run for so many minutes, from a seed, and prints what became of it."""

import argparse
import os
import random
import sys
import tempfile
from pathlib import Path

os.environ["RAY_AUTH_MODE"] = "disabled"

from rich.console import Console

from tests.soak import processes
from tests.soak.harms import each_once, harms_of
from tests.soak.soak import RANKS, undisturbed_and_hurt
from tests.soak.verdict import verdict

SECONDS_EACH = 32.0
"""For a harm: its stretch of steps, the recovery, and the same stretch of the undisturbed run."""
STRETCH = 48
"""Steps for a harm: a rank then lives long enough for its memory to be judged."""
SEQUENCES, FEW_SEQUENCES = 16, 4
"""Of a step: it then takes some tenths of a second, so that a run is longer than its recoveries;
in the short form the run is as short as it can be.
"""
SHORT_STEPS = 44


def main() -> None:
    """Soak, print, and exit with 1 under --check where a bar was missed."""
    arguments = _arguments()
    processes.mark()
    count = max(round(arguments.minutes * 60 / SECONDS_EACH), 5)
    steps, batch = STRETCH * count, SEQUENCES
    harms = harms_of(arguments.seed, steps, RANKS, count)
    if arguments.short:
        steps, batch, harms = SHORT_STEPS, FEW_SEQUENCES, each_once()
    console = Console(width=180)
    console.print(f"seed {arguments.seed}: {harms.count} harms in {steps} steps")
    with tempfile.TemporaryDirectory() as folder:
        both = undisturbed_and_hurt(Path(folder), steps, harms, batch)
        found = verdict(*both, harms)
    for table in found.tables:
        console.print(table)
    for miss in found.missed:
        console.print(f"missed: {miss}", markup=False)
    if arguments.check and found.missed:
        sys.exit(1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--short", action="store_true", help="everything once; no seed counts")
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    return parser.parse_args()


if __name__ == "__main__":
    main()
