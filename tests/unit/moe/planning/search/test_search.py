"""The search against every plan there is, on thousands of small questions of every kind."""

from collections import Counter
from cProfile import Profile
from dataclasses import replace
from math import inf

import pytest

from moe.config.presets import preset
from moe.errors import PlanError
from moe.planning.counts.workload import MEGATRON, Workload
from moe.planning.devices.inventory import Inventory
from moe.planning.devices.links import Link
from moe.planning.prediction.predict import predict
from moe.planning.search.pins import Pins
from moe.planning.search.question import Question
from moe.planning.search.search import Found, search
from moe.planning.search.shapes import Shape
from tests.every_plan import Whole, every_plan
from tests.plans import SMOLLM2, device, inventory
from tests.questions import draw_question

SAME = 1e-9
BLOCK = 50


def found_by(question: Question) -> Found | None:
    """Return what the search finds, checked against its own prediction; None if it refuses."""
    try:
        found = search(question)
    except PlanError:
        return None
    predicted = predict(question.config, found.plan, question.inventory, found.workload)
    assert found.gap == 0
    assert not found.node_by_node
    assert found.best.seconds == pytest.approx(predicted.step_seconds, rel=SAME)
    seats = found.plan.seats.of_replica(0)
    for seat, need in zip(seats, predicted.rank_bytes, strict=True):
        for name in found.plan.rank(seat).devices:
            assert need.total <= question.inventory.device(name).memory_bytes
    return found


def check(question: Question, any_recompute: bool = False) -> Found | None:
    """Hold the search against every plan: none takes less, and of those as quick none is leaner."""
    every = list(every_plan(question, any_recompute))
    found = found_by(question)
    assert (found is None) == (not every)
    if found is None:
        return None
    best = min(every, key=lambda each: each.seconds)
    written = predict(question.config, best.plan, question.inventory, best.workload)
    assert written.step_seconds == pytest.approx(best.seconds, rel=SAME)
    assert found.best.seconds == pytest.approx(best.seconds, rel=SAME)
    if not any_recompute:
        assert found.best.fullness <= leanest(every, found) * (1 + SAME)
    return found


def leanest(every: list[Whole], found: Found) -> float:
    """Return the least fullness of the plans of the same shape that take no longer."""
    most = found.best.seconds * (1 + 1e-12)
    return min(
        (
            each.fullness
            for each in every
            if each.shape == found.best.shape and each.seconds <= most
        ),
        default=inf,
    )


@pytest.mark.parametrize("block", range(20))
def test_no_plan_takes_less_than_the_one_that_is_found(block: int) -> None:
    for seed in range(block * BLOCK, (block + 1) * BLOCK):
        check(draw_question(seed))


@pytest.mark.parametrize("block", range(8))
def test_no_plan_to_serve_takes_less(block: int) -> None:
    for seed in range(block * BLOCK, (block + 1) * BLOCK):
        check(draw_question(10**6 + seed, training=False))


@pytest.mark.parametrize("block", range(8))
def test_no_choice_of_recomputed_layers_takes_less(block: int) -> None:
    for seed in range(block * BLOCK, (block + 1) * BLOCK):
        check(draw_question(2 * 10**6 + seed, 4, 3), any_recompute=True)


@pytest.mark.parametrize("pins", [Pins(gang=2), Pins(replicas=2, micro_batch=1), Pins(stages=3)])
def test_no_plan_of_more_devices_takes_less_where_a_part_is_pinned(pins: Pins) -> None:
    for seed in range(60):
        question = draw_question(3 * 10**6 + seed, 4, 7)
        check(replace(question, pins=pins))


def test_the_questions_are_of_every_sort() -> None:
    """What is drawn would prove little if all plans were of one stage, one kind or no recompute."""
    seen: Counter[str] = Counter()
    for seed in range(250):
        question = draw_question(seed)
        found = found_by(question)
        if found is None:
            seen["none"] += 1
            continue
        kinds = {device.traits for device in question.inventory.devices}
        seen["unlike"] += len(kinds) > 1
        seen["stages"] += len(found.plan.stages) > 1
        seen["deep"] += len(found.plan.stages) > 2
        seen["gang"] += found.plan.gang_size > 1
        seen["replicas"] += found.plan.replicas > 1
        seen["uneven"] += len(set(found.best.layers)) > 1
        seen["recompute"] += any(found.best.recomputed)
        seen["experts"] += question.config.moe is not None
        seen["order"] += _order(found, question.inventory) != sorted(
            _order(found, question.inventory)
        )
    assert seen["none"] < 90
    assert min(seen.values()) >= 10, seen
    assert len(seen) == 10


def _order(found: Found, there: Inventory) -> list[int]:
    names = [each.name for each in there.devices]
    return [names.index(stage.ranks[0].device) for stage in found.plan.stages]


TRAINING = Workload(sequence_length=512, micro_batch=1, micro_batches=1)


def ask(there: Inventory, sequences: int = 8, **changes: object) -> Question:
    pins = changes.pop("pins", Pins())
    assert isinstance(pins, Pins)
    return Question(replace(SMOLLM2, **changes), there, TRAINING, sequences, pins)


def test_alternatives_are_of_other_shapes_and_each_the_best_of_its_own() -> None:
    listed = 0
    for seed in range(60):
        question = draw_question(seed, 5, 4)
        found = found_by(question)
        if found is None:
            continue
        best: dict[Shape, float] = {}
        for each in every_plan(question):
            best[each.shape] = min(best.get(each.shape, inf), each.seconds)
        values = [found.best.seconds, *(each.seconds for each in found.alternatives)]
        assert values == sorted(values)
        assert values == pytest.approx(
            [best[each.shape] for each in (found.best, *found.alternatives)], rel=SAME
        )
        widths = {each.shape[:3] for each in (found.best, *found.alternatives)}
        assert len(widths) == len(values)
        listed += len(values)
    assert listed > 70


def test_the_order_of_alike_devices_follows_their_links() -> None:
    """Nodes a, b, c are linked as a - c - b: the inventory's own order has no way."""
    there = Inventory(
        tuple(device(node, node) for node in "abc"),
        (Link(("a", "b"), 0.0), Link(("a", "c"), 1e9), Link(("b", "c"), 1e9)),
    )
    found = search(ask(there, tie_embeddings=False, pins=Pins(stages=3)))
    assert [stage.ranks[0].device for stage in found.plan.stages][1] == "c"


def test_tied_ends_are_near_each_other() -> None:
    there = Inventory(
        tuple(device(node, node) for node in "abc"),
        (Link(("a", "b"), 1e9), Link(("a", "c"), 1e9), Link(("b", "c"), 1e7)),
    )
    question = ask(there, pins=Pins(stages=3), layers=6)
    found = check(question)
    assert found is not None
    ends = [found.plan.stages[number].ranks[0].device for number in (0, 2)]
    assert sorted(ends) != ["b", "c"]


def test_all_pinned_is_what_comes_out() -> None:
    pins = Pins(
        stages=2,
        gang=1,
        replicas=2,
        micro_batch=2,
        layers=(20, 10),
        recompute=(3, 0),
        order=("a/1", "a/0"),
    )
    found = search(ask(inventory(4), pins=pins))
    assert [stage.layers for stage in found.plan.stages] == [(0, 20), (20, 30)]
    assert [stage.recompute for stage in found.plan.stages] == [(0, 1, 2), ()]
    assert [stage.ranks[0].device for stage in found.plan.stages] == ["a/1", "a/0"]
    assert found.plan.replicas == 2
    assert (found.workload.micro_batch, found.workload.micro_batches) == (2, 2)


def counted(question: Question) -> tuple[Found, int]:
    """Return what is found and the calls it took: the same number however busy the machine is."""
    profile = Profile()
    found = profile.runcall(search, question)
    return found, sum(entry.callcount for entry in profile.getstats())


FAST, SLOW = Link(("*", "*"), 5e10, 1e-5), Link(("*", "*"), 1.25e9, 5e-5)


@pytest.mark.parametrize(
    ("name", "length", "link", "most"),
    [
        ("skywork-moe-146b", 8192, FAST, 4_450_000),
        ("deepseek-moe-145b", 4096, FAST, 7_100_000),
        ("skywork-moe-146b", 8192, SLOW, 9_750_000),
        ("deepseek-moe-145b", 4096, SLOW, 18_900_000),
    ],
)
def test_large_models_are_planned_and_proved(name: str, length: int, link: Link, most: int) -> None:
    """``benchmarks.planning`` has the seconds. A fifth more calls fails."""
    nodes, sequences = 192, 1024
    devices = tuple(
        device(f"{node}/{gpu}", str(node), kind="A800", memory_bytes=80 * 2**30)
        for node in range(nodes)
        for gpu in range(8)
    )
    workload = Workload(length, 1, 1, numerics=MEGATRON)
    there = Inventory(devices, (link,))
    found, calls = counted(Question(preset(name).config, there, workload, sequences))
    assert found.gap == 0
    assert len(devices) >= found.best.shape.devices > len(devices) // 2
    assert found.alternatives
    assert calls < 1.2 * most
