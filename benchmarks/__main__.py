"""Run all benchmarks, one after the other, and say at the end which failed or missed a bar.

A benchmark that fails does not keep the next from running.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.every import names, run


def _run_all() -> int:
    """Return 1 if any benchmark failed, or under --check missed a bar."""
    arguments = _arguments()
    outcomes = []
    for name in arguments.names or names():
        print(f"\nbenchmarks.{name}", flush=True)
        words = ["--smallest"] if arguments.smallest else []
        if name in ("mixing", "upcycle") and arguments.mergekit:
            words += ["--mergekit", str(arguments.mergekit)]
        outcomes.append(run(name, words))
    print()
    for outcome in outcomes:
        print("\n".join(outcome.lines))
    return int(not all(outcome.passes(arguments.check) for outcome in outcomes))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="all, if none is given")
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed, too")
    parser.add_argument("--smallest", action="store_true", help="each on tiny material, in seconds")
    parser.add_argument(
        "--mergekit", type=Path, help="mergekit-moe, with which upcycle and mixing are compared"
    )
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(names()))
    if unknown:
        parser.error(f"no benchmark is called {unknown[0]}; there are {', '.join(names())}")
    return arguments


if __name__ == "__main__":
    sys.exit(_run_all())
