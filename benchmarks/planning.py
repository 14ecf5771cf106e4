"""How long a search for the best plan takes, and whether it proves that there is no better one.

192 nodes of 8 A800, 1,024 sequences a step, with 50 GB/s between nodes and with 10 Gb/s. Processor
seconds of one core, medians, so that others on the machine count little. Bars: 1 s with the quick
links, 3 s with the slow ones, and a gap of 0 for all: the plan is proved to be the best.
"""

import time
from argparse import Namespace
from statistics import median

from benchmarks.results import finish, options, parse
from moe.config.presets import preset
from moe.planning.counts.workload import MEGATRON, Workload
from moe.planning.devices.inventory import Device, Inventory
from moe.planning.devices.links import Link
from moe.planning.search.search import Found, Question, search

NODES, GPUS_PER_NODE, SEQUENCES = 192, 8, 1024
MODELS = {"skywork-moe-146b": 8192, "deepseek-moe-145b": 4096}
LINKS = {
    "50 GB/s": (Link(("*", "*"), 5e10, 1e-5), 1.0),
    "10 Gb/s": (Link(("*", "*"), 1.25e9, 5e-5), 3.0),
}


def main() -> None:
    """Search, measure and print."""
    arguments = _arguments()
    rows, missed = [], []
    for name in MODELS:
        for speed, (link, bar) in LINKS.items():
            what = f"{name}, {speed}"
            seconds, found = _searched(_question(name, link), arguments.repeats)
            rows.append(_row(what, seconds, found))
            if seconds > bar:
                missed.append(f"{what}: {seconds:.2f} s > {bar} s")
            if found.gap > 0:
                missed.append(f"{what}: not proved, gap {found.gap:.2f}")
    finish(arguments, "Searching all shapes, processor seconds", rows, missed)


def _arguments() -> Namespace:
    parser = options(__doc__ or "", material=False)
    parser.add_argument("--repeats", type=int, default=3)
    return parse(parser, repeats=1)


def _question(name: str, link: Link) -> Question:
    devices = tuple(
        Device(f"n{node}/{number}", f"n{node}", "A800", 80 * 2**30, threads=8)
        for node in range(NODES)
        for number in range(GPUS_PER_NODE)
    )
    workload = Workload(MODELS[name], 1, 1, numerics=MEGATRON)
    return Question(preset(name).config, Inventory(devices, (link,)), workload, SEQUENCES)


def _searched(question: Question, repeats: int) -> tuple[float, Found]:
    taken = []
    for _ in range(repeats):
        started = time.process_time()
        found = search(question)
        taken.append(time.process_time() - started)
    return median(taken), found


def _row(what: str, seconds: float, found: Found) -> dict[str, object]:
    return {
        "what": what,
        "seconds": seconds,
        "plan": str(found.best.shape),
        "step s": found.best.seconds,
        "gap": found.gap,
    }


if __name__ == "__main__":
    main()
