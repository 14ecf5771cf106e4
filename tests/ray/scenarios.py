"""A cluster of several Ray nodes on this machine, unlike each other, and what plans meet there.

Run as a program, so that the session of the other tests is not disturbed; what it saw goes to a
JSON file, because Ray prints what it likes.
"""

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

os.environ["RAY_AUTH_MODE"] = "disabled"

import ray
from ray._private.state import actors as actor_table
from ray.cluster_utils import Cluster
from ray.util import placement_group, placement_group_table, remove_placement_group

from actors.crew import ending, launch, reservation
from actors.crew.gather import gather
from actors.crew.nodes.bundles import takes
from actors.crew.nodes.nodes import rooms
from actors.crew.patience import Patience
from cluster import watch
from cluster.probe import probe
from cluster.session import NAMESPACE
from cluster.strike import strike
from moe.config.fault import Fault
from moe.errors import RaymoeError
from moe.planning.plan.plan import Plan, RankPlan
from tests.driven import every
from tests.places import GB, plan

ONE = {"threads": 1}
FAST = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}
NODES: dict[str, dict[str, Any]] = {
    "a": {"num_cpus": 4, "memory": 2 * GB, "labels": {"rack": "r0"}, "resources": {"slot": 2}},
    "b": {"num_cpus": 4, "memory": 2 * GB, "labels": {"rack": "r1"}},
    "c": {"num_cpus": 2, "memory": GB, "labels": {"rack": "r1", "role": "big"}},
}
SMALL = {"object_store_memory": 80 * 2**20}
SCENES = ("spread", "asking", "refused", "busy", "coming", "forestalled")
SCENES += ("selectors", "lost", "drained")
SECONDS = 420
_NUMBERS = count()

Told = dict[str, Any]


class Scenarios:
    """The cluster, and a method for each scenario, in the order in which they run."""

    def __init__(self) -> None:
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": FAST}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._nodes = {key: self._cluster.add_node(**node, **SMALL) for key, node in NODES.items()}
        ray.init(address=self._cluster.address, namespace=NAMESPACE, log_to_driver=False)
        self._ids = {node.node_id: key for key, node in self._nodes.items()}

    def close(self) -> None:
        ray.shutdown()
        self._cluster.shutdown()

    def spread(self) -> Told:
        """Two replicas of a gang of two; the name that probe gives leads one to its node."""
        return self._launched(plan([[ONE, ONE]], ("test", f"{self._named('a')}/cpu0")))

    def asking(self) -> Told:
        """Stages that each fit one node only, by a resource, by a label, by memory."""
        asked = [
            {"resources": (("slot", 1.5),), "memory_bytes": GB},
            {"labels": (("role", "!big"), ("rack", "in(r1, r2)"))},
            {"labels": (("role", "big"),), "memory_bytes": GB // 2},
        ]
        return self._launched(plan([[rank] for rank in asked]), names=("memory", "slot"))

    def refused(self) -> Told:
        """Plans that even the idle cluster cannot hold."""
        return {
            "label": self._error(plan([[ONE], [{"labels": (("rack", "r7"),)}]])),
            "rank": self._error(plan([[ONE, {"threads": 5}]])),
            "memory": self._error(plan([[{"memory_bytes": 3 * GB}]])),
            "gang": self._error(plan([[{"threads": 2}, {"threads": 3}]])),
            "sum": self._error(plan([[{"threads": 3}]] * 4)),
            "packing": self._error(plan([[{"threads": 3}]] * 3)),
        }

    def busy(self) -> Told:
        """What others hold is not free; what they gave back is, at once."""
        self._take({"CPU": 3}, "a")
        other = self._take({"CPU": 3}, "b")
        wide = plan([[{"threads": 3}]])
        told = {"error": self._error(wide)}
        remove_placement_group(other)
        told |= {"freed": self._launched(wide)}
        self._give_back()
        return told

    def coming(self) -> Told:
        """A node comes while a launch waits for it; what it asks for is what Ray sees as demand."""
        wanted = plan([[ONE], [ONE | {"labels": (("rack", "r9"),)}]])
        reasons: list[str] = []
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(
                launch.launch, "coming", wanted, True, 120, Patience(60.0, reasons.append)
            )
            while not (asked := _asked_for()) and not coming.done():
                time.sleep(0.1)
            node = self._cluster.add_node(num_cpus=1, labels={"rack": "r9"}, **SMALL)
            self._nodes["late"], self._ids[node.node_id] = node, "late"
            crew = coming.result()
        told: Told = {"reasons": reasons, "asked": asked}
        told |= {"places": self._places("coming"), "count": len(crew.seats)}
        ending.remove("coming")
        self._cluster.remove_node(self._nodes.pop("late"))
        return told | {"left": _left(), "error": self._patiently(0.5), "still": _left()}

    def _patiently(self, seconds: float) -> Told:
        far = plan([[ONE | {"labels": (("rack", "r8"),)}]])
        return self._tried(lambda: launch.launch("bad", far, True, 60, Patience(seconds)))

    def forestalled(self) -> Told:
        """Others take a node between the decision for it and the reservation."""
        wanted = plan([[{"threads": 2}, {"threads": 2}]] * 2)
        choice = launch.decide(wanted)
        self._take({"CPU": 1}, self._ids[choice.nodes[0][1]])

        def reserving() -> None:
            try:
                nodes = {seat: choice.nodes[seat.replica][seat.stage] for seat in wanted.seats}
                reservation.reserve("late", wanted, nodes, detached=True)
            finally:
                ending.remove("late")

        told = self._tried(reserving)
        self._give_back()
        return told

    def selectors(self) -> Told:
        """Every selector on every node: what we say, and what Ray does."""
        told: Told = {}
        texts = ("r0", "!r0", "in(r0,r1)", "in(r1,r2)", "!in(r1,r2)", "!in(r0,r1)")
        for key, text in [("rack", text) for text in texts] + [("role", "big"), ("role", "!big")]:
            rank = RankPlan(("x",), (0, 1), (0, 1), (), labels=((key, text),))
            ours = {self._ids[r.id] for r in rooms() if r.id in self._ids and takes(rank, r.labels)}
            theirs = {name: self._asked(name, {key: text}) for name in self._nodes}
            told[f"{key} = {text}"] = [sorted(ours), theirs]
        time.sleep(2)
        table = placement_group_table()
        for both in told.values():
            states = {name: table[group]["state"] for name, group in both[1].items()}
            both[1] = sorted(name for name, state in states.items() if state == "CREATED")
        self._give_back()
        return told

    def drained(self) -> Told:
        """A node that is told to leave is not chosen, although it still works."""
        there = plan([[ONE]], (f"{self._named('b')}/cpu0",))
        crew = launch.launch("going", there, detached=True, seconds=120)
        held = self._take({"CPU": 1}, "b")
        worker = ray.remote(_Idle).options(num_cpus=1, placement_group=held).remote()
        ray.get(worker.here.remote())
        strike(Fault("drain", 0, 0, seconds=600), self._nodes["b"].node_id)
        leaving = [[self._ids[e.node], e.seconds] for e in watch.ask().leaving(time.time())]
        chosen = launch.decide(plan([[ONE], [ONE]]))
        before = self._places("going")
        crew.replace(crew.seats, 120)
        moved = [before, self._places("going")]
        ending.remove("going")
        seen = sorted(self._ids.get(room.id, "head") for room in rooms())
        chose = sorted({self._ids[node] for node in chosen.nodes[0]})
        return {"seen": seen, "leaving": leaving, "chosen": chose, "moved": moved}

    def lost(self) -> Told:
        """A node dies under a run: its state is clear, and ends clean; the rest can be used."""
        two = plan([[ONE, ONE]], (f"{self._named('a')}/cpu0", f"{self._named('c')}/cpu0"))
        crew = launch.launch("lost", two, detached=True, seconds=120)
        told: Told = {"before": self._places("lost"), "count": len(crew.seats)}
        strike(Fault("node", 0, 0), self._nodes["a"].node_id)
        started = time.monotonic()
        while len(crew.lost()) < 2 and time.monotonic() < started + 30:
            time.sleep(0.05)
        told |= {"seconds": time.monotonic() - started, "after": self._places("lost")}
        told |= {"running": ending.running("lost"), "groups": reservation.groups_of("lost")}
        crew.want(crew.lost())
        told |= {"wanted": _wanted("lost")}
        crew.replace(crew.lost(), 120)
        told |= {"healed": self._places("lost"), "missing": len(crew.lost())}
        there, wide = _left(), plan([[{"threads": 3}]] * 2)
        told |= {"refused": self._tried(lambda: crew.becoming(wide, {}, 60)), "there": there}
        started = time.monotonic()
        ending.remove("lost")
        told |= {"ended": time.monotonic() - started, "left": _left()}
        again = launch.decide(plan([[ONE, ONE]]))
        return told | {"error": self._error(wide), "again": self._ids[again.nodes[0][0]]}

    def _launched(self, wanted: Plan, names: tuple[str, ...] = ()) -> Told:
        """Launch a plan, tell where everything is, end it, tell what is left."""
        started = time.monotonic()
        crew = launch.launch("run", wanted, detached=True, seconds=120)
        status = gather(crew, every(crew, "status"), "the status", 60.0)
        time.sleep(0.3)
        told = {
            "seconds": time.monotonic() - started,
            "pids": len({each.pid for each in status}),
            "places": self._places("run"),
            "groups": {
                group["name"]: [group["strategy"], group["state"]]
                for group in placement_group_table().values()
                if group["name"].startswith("run/") and group["state"] != "REMOVED"
            },
            "taken": self._used(names),
        }
        ending.remove("run")
        return told | {"left": _left()}

    def _places(self, run: str) -> dict[str, str]:
        """Return the node of every living actor of a run."""
        return {
            actor["Name"]: self._ids[actor["Address"]["NodeID"]]
            for actor in actor_table().values()
            if actor["Name"].startswith(f"{run}/") and actor["State"] == "ALIVE"
        }

    def _used(self, names: tuple[str, ...]) -> dict[str, dict[str, float]]:
        """Return what is taken of some resources, by node."""
        return {
            self._ids[room.id]: {n: room.total[n] - room.free.get(n, 0.0) for n in names}
            for room in rooms()
            if room.id in self._ids and all(name in room.total for name in names)
        }

    def _error(self, wanted: Plan) -> Told:
        return self._tried(lambda: launch.launch("bad", wanted, detached=True, seconds=60))

    def _tried(self, work: Callable[[], object]) -> Told:
        started = time.monotonic()
        try:
            work()
        except RaymoeError as error:
            seconds = time.monotonic() - started
            text = str(error)
            for node in rooms():
                text = text.replace(node.name, f"node {self._ids.get(node.id, 'head')}")
            return {
                "type": type(error).__name__,
                "text": text,
                "seconds": seconds,
                "left": _left(),
            }
        return {"type": None, "text": "no error", "left": _left()}

    def _named(self, key: str) -> str:
        """Return the name that probe gives a node."""
        nodes = {device.node for device in probe().devices}
        (name,) = [each for each in nodes if each.endswith(self._nodes[key].node_id[:8])]
        return name

    def _take(self, amounts: dict[str, float], key: str) -> Any:
        """Hold resources of a node, as somebody else would."""
        node = {"ray.io/node-id": self._nodes[key].node_id}
        group = placement_group([amounts], name=_other(), bundle_label_selector=[node])
        assert group.wait(10)
        return group

    def _asked(self, key: str, labels: dict[str, str]) -> str:
        """Ask Ray for a little of a node if it has such labels; return the group's id."""
        node = {"ray.io/node-id": self._nodes[key].node_id}
        group = placement_group(
            [{"CPU": 0.1}], name=_other(), bundle_label_selector=[node | labels]
        )
        return str(group.id.hex())

    def _give_back(self) -> None:
        for key, group in placement_group_table().items():
            if group["name"].startswith("other-") and group["state"] != "REMOVED":
                remove_placement_group(_group(key))


def _other() -> str:
    """Return a name for a group of somebody else; Ray wants names to differ."""
    return f"other-{next(_NUMBERS)}"


def _asked_for() -> list[Any]:
    """Return the first bundle and the strategy of what is asked for and not granted."""
    groups = [each for each in placement_group_table().values() if each["state"] == "PENDING"]
    return [[each["bundles"][0], each["strategy"]] for each in groups]


def _wanted(run: str) -> int:
    """Return for how many gangs a run asks the cluster."""
    groups = (each for each in placement_group_table().values() if each["state"] != "REMOVED")
    return sum(each["name"].startswith(f"{run}/wanted-") for each in groups)


class _Idle:
    def here(self) -> bool:
        return True


def _group(key: str) -> Any:
    from ray._raylet import PlacementGroupID
    from ray.util.placement_group import PlacementGroup

    return PlacementGroup(PlacementGroupID(bytes.fromhex(key)))


def _left() -> list[str]:
    """Return what there is beside what others hold."""
    groups = [each for each in placement_group_table().values() if each["state"] != "REMOVED"]
    actors = [each for each in actor_table().values() if each["State"] != "DEAD"]
    named = [group["name"] for group in groups] + [actor["Name"] for actor in actors]
    return sorted(name for name in named if name and not name.startswith("other-"))


def main() -> None:
    signal.signal(signal.SIGALRM, lambda *_: sys.exit("the scenarios took too long"))
    signal.alarm(SECONDS)
    scenarios, told = Scenarios(), {}
    try:
        for name in sys.argv[2:] or SCENES:
            told[name] = _scene(getattr(scenarios, name))
    finally:
        scenarios.close()
    Path(sys.argv[1]).write_text(json.dumps(told), encoding="utf-8")


def _scene(scene: Callable[[], Told]) -> Told:
    try:
        return scene()
    except Exception:
        return {"failed": traceback.format_exc()}


if __name__ == "__main__":
    main()
