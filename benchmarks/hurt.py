"""A run of ours that is hurt in one way after the other, and how long each time it did not train.

It is what ``raymoe train`` calls, on a cluster of nodes on this machine, and is watched from where
its command line is. Each node has room for one rank, and one node is to spare.
"""

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import ray
from ray._private.state import actors as actor_table
from ray.cluster_utils import Cluster

from actors.commands import RankStatus, StepReport
from actors.crew.reservation import actors_of
from benchmarks.copies import two_stages
from cluster.journal import JOURNAL, read
from moe.checkpoint.manifest import checkpoints
from moe.checkpoint.reader import Checkpoint
from moe.config.model import ModelConfig
from moe.config.run import RunConfig, parse_run
from moe.errors import ClusterError
from moe.planning.plan.file import save_plan
from pipelines.training.board import ask
from pipelines.training.train import train
from pipelines.training.wishes import Wish

RUN = "recovery"
RANKS = 2
HANG_SECONDS = 2.0
RESIZED = "resized"
WAYS = ("killed", "hung", "node", "restored", RESIZED)
"""SIGKILL of a rank, SIGSTOP of one, the crash of a node with one, SIGKILL of both at once: that is
a rank and the holder of its only copy, so the run restores its checkpoint. A resize is no loss: a
layer goes from one stage to the other.
"""
FAST = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}
"""Ray finds out that a node has crashed in a little over a second."""
UNDISTURBED = 4
"""Steps before a loss of which the median is the time of a step."""
GOES_ON = ("training goes on", "resized after step", "change of plan")
"""Lines with these words come after a loss, a change of plan, or one that was refused."""
_ANSWER_SECONDS = 0.2
SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Hurt:
    """One loss: ``seconds`` from the signal to the end of the next step, less those of a step.

    ``again``: steps that were done again. ``phases``: seconds, as the journal has them. ``waits``:
    seconds from the signal until each rank that lived was free, by its own clock.
    """

    way: str
    seconds: float
    step_seconds: float
    again: int = 0
    phases: dict[str, float] = field(default_factory=dict)
    waits: list[float] = field(default_factory=list)
    bytes: int = 0
    rate: float = 0.0
    """Bytes that a resize moved, and bytes a second at which copies travelled in the same run."""


class _Done(Exception):
    """Ends the run: all has been measured."""


class Nodes:
    """A cluster on this machine: a head without room for ranks, and nodes with room for one."""

    def __init__(self) -> None:
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": FAST}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._nodes: list[Any] = []
        self.fill()

    @property
    def address(self) -> str:
        """Where the cluster is joined."""
        return str(self._cluster.address)

    def fill(self) -> int:
        """Add nodes until one more is there than there are ranks; return how many there are."""
        while len(self._nodes) <= RANKS:
            node = self._cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
            self._nodes.append(node)
        return len(self._nodes)

    def crash(self, node_id: str) -> None:
        """Kill Ray's own process on a node, as where a machine is gone."""
        (node,) = (each for each in self._nodes if each.node_id == node_id)
        self._nodes.remove(node)
        node.kill_raylet()

    def close(self) -> None:
        """End all nodes."""
        self._cluster.shutdown()  # type: ignore[no-untyped-call]


class Hurting:
    """Follows a run, and hurts it whenever it has trained undisturbed for a while."""

    def __init__(
        self, nodes: Nodes, ways: Sequence[str], folder: Path, config: ModelConfig
    ) -> None:
        self.found: list[Hurt] = []
        self._config = config
        self._cut = config.layers // 2
        self._nodes = nodes
        self._ways = [*ways]
        self._folder = folder
        self._steps: list[float] = []
        self._struck: float | None = None
        self._mended = False
        self._harms: dict[str, Callable[[], float]] = {
            "killed": lambda: self._signal(signal.SIGKILL, 1),
            "hung": lambda: self._signal(signal.SIGSTOP, 1),
            "node": self._crash,
            "restored": lambda: self._signal(signal.SIGKILL, 0, 1),
            RESIZED: self._resize,
        }

    def step(self, report: StepReport) -> None:
        """Take note that a step has ended."""
        if self._struck is None:
            self._steps.append(report.seconds)
        elif self._mended:
            self._note(time.time())
        if self._struck is None and len(self._steps) > UNDISTURBED and self._calm():
            self._struck = self._harms[self._ways[0]]()

    def tell(self, line: str) -> None:
        """Take note of a line for the terminal: one says that the run goes on after it was hurt."""
        print(line, flush=True)
        if any(words in line for words in GOES_ON):
            self._mended = self._struck is not None

    def _note(self, now: float) -> None:
        assert self._struck is not None
        events = read(self._folder / JOURNAL)
        if self._ways[0] == RESIZED:
            self._take(self._resized(events))
            return
        mended = [event for event in events if event.get("event") == "mended"][-1]
        freed = [status.freed for status in self._ranks().values()]
        step = median(self._steps[-UNDISTURBED:])
        hurt = Hurt(
            self._ways[0],
            now - self._struck - step,
            step,
            mended["lost_step"] - mended["boundary"],
            mended["seconds"],
            [each - self._struck for each in freed if each > self._struck],
        )
        self._take(hurt)

    def _resized(self, events: Sequence[Mapping[str, Any]]) -> Hurt:
        """Return what the last change of plan cost: between the two steps around it."""
        told = [event for event in events if event.get("event") == "resized"][-1]
        if not told["changed"]:
            raise ClusterError(f"the plan was not changed: {told['reason']}")
        ended = {event["step"]: event["time"] for event in events if "event" not in event}
        copies = [event for event in events if event.get("event") == "copies"]
        first, step = told["boundary"], median(self._steps[-UNDISTURBED:])
        gap = ended[first + 1] - ended[first] - step
        rate = median(each["bytes"] / each["seconds"] for each in copies if each["bytes"])
        return Hurt(RESIZED, gap, step, 0, told["seconds"], [], told["bytes"], rate)

    def _take(self, hurt: Hurt) -> None:
        """Keep what was found, and go on to the next way."""
        self._ways.pop(0)
        print(hurt, flush=True)
        self.found.append(hurt)
        self._struck, self._mended, self._steps = None, False, []
        if not self._ways:
            raise _Done

    def _calm(self) -> bool:
        """Tell whether the run stands as it does most of the time: copies held, spares warm.

        A node that came after a crash has a spare once a loss was mended since.
        """
        nodes, ranks = self._nodes.fill(), self._ranks().values()
        if self.found and self.found[-1].way == "node":
            nodes = RANKS
        warm = sum(status.seat is None for status in self._statuses().values())
        held = len(ranks) == RANKS and all(status.holds for status in ranks)
        return warm >= nodes and held and bool(checkpoints(self._folder))

    def _ranks(self) -> dict[str, RankStatus]:
        return {name: each for name, each in self._statuses().items() if each.seat is not None}

    def _statuses(self) -> dict[str, RankStatus]:
        """Return what each actor of the run says by its name; those that start say nothing yet."""
        asked: dict[str, Any] = {}
        for name in actors_of(RUN):
            with suppress(ValueError):
                asked[name] = ray.get_actor(name).status.remote()
        ray.wait([*asked.values()], num_returns=len(asked), timeout=_ANSWER_SECONDS)
        found: dict[str, RankStatus] = {}
        for name, answer in asked.items():
            with suppress(ray.exceptions.RayError):
                found[name] = ray.get(answer, timeout=0)
        return found

    def _signal(self, number: signal.Signals, *ranks: int) -> float:
        pids = {status.rank: status.pid for status in self._ranks().values()}
        struck = time.time()
        for rank in ranks:
            os.kill(pids[rank], number)
        return struck

    def _resize(self) -> float:
        """Have a layer go from the first stage to the second, or back."""
        struck, half = time.time(), self._config.layers // 2
        self._cut = half - 1 if self._cut == half else half
        ask(RUN, Wish(plan=two_stages(self._config, self._cut)), SECONDS)
        return struck

    def _crash(self) -> float:
        """Crash a node with a rank, on which the driver is not."""
        living = [each for each in actor_table().values() if each["State"] == "ALIVE"]
        names = self._ranks().keys()
        drivers = {_node(each) for each in living if "TrainWorker" in each["ActorClassName"]}
        homes = {_node(each) for each in living if each["Name"] in names} - drivers
        struck = time.time()
        self._nodes.crash(min(homes))
        return struck


def hurt(
    model: Path, data: Path, folder: Path, sequences: int, ways: Sequence[str], nodes: Nodes
) -> list[Hurt]:
    """Train a model as two stages of one thread on a cluster, hurt it in turn, and end the run."""
    run = _run(model, data, folder, sequences, nodes.address)
    hurting = Hurting(nodes, ways, run.checkpoint.path, Checkpoint.open(model).config)
    with suppress(_Done):
        train(run, "never", lambda plan, joined: None, hurting.step, hurting.tell)
    return hurting.found


def _run(model: Path, data: Path, folder: Path, sequences: int, address: str) -> RunConfig:
    plan = folder / "plan.toml"
    save_plan(two_stages(Checkpoint.open(model).config), plan)
    table: dict[str, Any] = {
        "name": RUN,
        "model": {"path": str(model)},
        "data": {"path": str(data)},
        "train": {
            "steps": 10**6,
            "global_batch": sequences,
            "learning_rate": 1e-5,
            "min_learning_rate": 1e-5,
        },
        "plan": {"path": str(plan)},
        "cluster": {"address": address},
        "elastic": {"hang_seconds": HANG_SECONDS, "max_failures": 1000},
        "checkpoint": {"path": str(folder / "run"), "every": 10, "keep": 2},
    }
    return parse_run(table, "the benchmark")


def _node(actor: dict[str, Any]) -> str:
    return str(actor["Address"]["NodeID"])
