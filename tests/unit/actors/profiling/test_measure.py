"""What ranks measure together, and the profile that it becomes."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path
from statistics import median

import pytest
import torch
import torch.distributed as dist

from actors.device import CpuDevice, CudaDevice
from actors.profiling.bench import (
    CHAIN_BYTES,
    OptimizerBench,
    PartBench,
    alone,
    parameters,
    parts_of,
)
from actors.profiling.machine import Found, device_of, measure
from actors.profiling.measure import FEWEST_ROUNDS, Measuring, Timed
from actors.profiling.messages import FASTEST, Message, Wire, link_of, sum_seconds
from actors.profiling.profile import caution_of, passes_of, profile_of
from moe.config.model import ModelConfig
from moe.config.presets import PRESETS
from moe.config.share import whole
from moe.errors import ConfigError, RankLost
from moe.planning.counts.work import layer_parameters, optimizer_work
from moe.planning.counts.workload import BF16, FLOAT32, Workload
from moe.planning.devices.inventory_file import load_profile, save_profile
from moe.planning.devices.pace import Pace
from moe.planning.devices.rates import Rates
from moe.planning.prediction.predict import predict
from moe.planning.search.make import make_plan
from tests import plans

TINY = replace(
    plans.FINE,
    vocab_size=97,
    hidden_size=32,
    layers=4,
    heads=6,
    kv_heads=3,
    head_size=8,
    ffn_size=48,
    moe=replace(
        plans.FINE.moe, experts=4, top_k=2, expert_size=24, shared_size=24, dense_layers=(0,)
    ),
)
SIZES = (1, 32)
LENGTH = 64
ASKED = Measuring(TINY, LENGTH, SIZES, ranks=2, threads=1, seconds=0.05)
CPU = torch.device("cpu")


@contextmanager
def local_group() -> Iterator[None]:
    """Give this process a group of its own."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def found() -> tuple[Found, ...]:
    return measure(ASKED)


def test_every_part_is_timed_at_every_size_by_every_rank(found: Sequence[Found]) -> None:
    wanted = {(part, size * LENGTH) for part in parts_of(TINY) for size in SIZES}
    assert parts_of(TINY) == ("embedding", "dense", "moe", "head")
    for each in found:
        assert {(timed.part, timed.tokens) for timed in each.parts} == wanted | {("optimizer", 1)}
        assert each.device == "cpu"
        assert 0 < each.share < 4
        for timed in each.parts:
            assert len(timed.forward) == len(timed.backward) >= FEWEST_ROUNDS
            assert all(seconds > 0 for seconds in timed.forward)
            assert timed.part == "optimizer" or all(seconds > 0 for seconds in timed.backward)
    rounds = [[len(timed.forward) for timed in each.parts] for each in found]
    assert rounds[0] == rounds[1]


def test_rates_and_links_are_those_of_a_machine(found: Sequence[Found]) -> None:
    for each in found:
        assert 1e8 < each.rates.flops_per_second < 1e14
        assert 1e7 < each.rates.bytes_per_second < 1e13
        assert each.wire is not None
        assert each.wire.hidden.size == 4 * TINY.hidden_size * LENGTH * max(SIZES)
        assert each.wire.summed.size == 4 * TINY.hidden_size * TINY.vocab_size
    link = link_of([each.wire for each in found if each.wire])
    assert 1e-7 < link.latency_seconds < 1
    assert 1e5 < link.bytes_per_second <= FASTEST  # On a busy machine both sizes may take as long.


def test_a_larger_micro_batch_takes_longer(found: Sequence[Found]) -> None:
    parts = {(part.part, part.tokens): part for part in profile_of(ASKED, found, "").parts}
    small, large = (size * LENGTH for size in SIZES)
    for part in ("dense", "moe", "head"):
        assert parts[part, large].forward > parts[part, small].forward
    for part in ("dense", "moe"):
        assert parts[part, large].backward > parts[part, small].backward


def test_the_planner_says_what_was_measured(found: Sequence[Found], tmp_path: Path) -> None:
    made = profile_of(ASKED, found, "a test")
    link = link_of([each.wire for each in found if each.wire])
    save_profile([made], [link], tmp_path / "profile.toml")
    profiles, links = load_profile(tmp_path / "profile.toml")
    assert (profiles, links) == ((made,), (link,))
    pace = Pace(made.rates, profiles[0].parts)
    for part in made.parts:
        if part.part == "optimizer":
            (held,) = (each.parameters for each in found[0].parts if each.part == "optimizer")
            work = optimizer_work(held, FLOAT32)
            assert pace.once("optimizer", work) == pytest.approx(part.forward)
            continue
        workload = Workload(LENGTH, part.tokens // LENGTH, 1)
        forward, backward = pace.seconds(
            part.part, passes_of(TINY, part.part, workload), part.tokens
        )
        assert backward == pytest.approx(part.backward)
        if part.part != "embedding":
            assert forward == pytest.approx(part.forward)


def test_a_stage_is_the_sum_of_its_measured_parts(found: Sequence[Found]) -> None:
    made = profile_of(ASKED, found, "a test")
    inventory = plans.inventory(1).measured([made])
    for size in SIZES:
        workload = Workload(LENGTH, size, 2)
        plan = make_plan(TINY, inventory, 1, 1, workload)
        parts = {part.part: part for part in made.parts if part.tokens == size * LENGTH}
        backward = parts["embedding"].backward + parts["head"].backward
        backward += parts["dense"].backward + 3 * parts["moe"].backward
        forward = parts["dense"].forward + 3 * parts["moe"].forward + parts["head"].forward
        stage = predict(TINY, plan, inventory, workload).stages[0]
        assert (stage.forward, stage.backward) == pytest.approx((forward, backward))


def test_a_cpu_is_measured_where_gpus_are_seen_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan for CPUs must not count with the speed of a GPU that Ray was not told of."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of(ASKED, 1) == CudaDevice(1)
    assert device_of(replace(ASKED, on_cpu=True), 1) == CpuDevice()


def test_figures_are_medians_over_all_ranks() -> None:
    def rank(*seconds: float) -> Found:
        timed = Timed("head", LENGTH, seconds, tuple(2 * each for each in seconds))
        return Found("cpu", Rates(seconds[0], 2 * seconds[0]), (timed,), None, 1.0)

    made = profile_of(ASKED, [rank(1.0, 2.0, 9.0), rank(3.0, 4.0, 5.0)], "here")
    assert (made.parts[0].forward, made.parts[0].backward) == (3.5, 7.0)
    assert made.rates == Rates(2.0, 4.0)
    assert (made.kind, made.threads, made.source) == ("cpu", 1, "here")
    gpu = replace(rank(1.0), device="NVIDIA A100-SXM4-80GB")
    assert profile_of(replace(ASKED, precision="bf16"), [gpu], "").kind == "A100-80G"


def test_sixteen_bits_are_measured_on_their_own(tmp_path: Path) -> None:
    """A block has bfloat16 weights, and the profile answers for no other precision."""
    asked = replace(ASKED, ranks=1, micro_batches=(1,), precision="bf16", quick=True)
    (alone_,) = measure(asked)
    made = profile_of(asked, [alone_], "a test")
    save_profile([made], [], tmp_path / "profile.toml")
    assert load_profile(tmp_path / "profile.toml")[0] == (made,)
    assert made.precision == "bf16"
    assert all(len(timed.forward) >= 1 for timed in alone_.parts)
    there = plans.inventory(1).measured([made])
    (device,) = there.devices
    assert there.pace(device, sixteen_bit=True).source == "a test"
    assert there.pace(device).source == "counted"
    workload = Workload(LENGTH, 1, 2, numerics=BF16)
    plan = make_plan(TINY, there, 1, 1, workload)
    parts = {part.part: part for part in made.parts}
    stage = predict(TINY, plan, there, workload).stages[0]
    forward = parts["dense"].forward + 3 * parts["moe"].forward + parts["head"].forward
    assert stage.forward == pytest.approx(forward)


def test_products_of_every_role_are_measured(found: Sequence[Found]) -> None:
    made = profile_of(ASKED, found, "a test").rates
    assert 1e8 < made.input_flops_per_second < 1e14
    assert 1e8 < made.weight_flops_per_second < 1e14
    low, high = sorted((made.input_flops_per_second, made.weight_flops_per_second))
    assert low <= made.backward_flops_per_second <= high


@pytest.mark.parametrize("part", ["embedding", "dense", "moe", "head"])
@pytest.mark.parametrize("changes", [{}, {"hashed": True}, {"balance_bias": True}])
@pytest.mark.parametrize("tied", [True, False])
def test_rounds_add_gradients_to_those_that_are_there(
    part: str, changes: dict[str, bool], tied: bool
) -> None:
    assert TINY.moe is not None
    hashed = {"top_k": 1, "renormalise": True} if "hashed" in changes else {}
    moe = replace(TINY.moe, **changes, **hashed)
    bench = PartBench(replace(TINY, moe=moe, tie_embeddings=tied), part, CPU)
    bench.use(2, 16)
    sizes = []
    for _ in range(2):
        bench.prepare()
        bench.forward()
        bench.backward()
        gradients = {
            name: parameter.grad.clone()
            for name, parameter in bench.decoder.named_parameters()
            if parameter.grad is not None
        }
        assert all(gradient.isfinite().all() for gradient in gradients.values())
        sizes.append(gradients)
    assert any(gradient.any() for gradient in sizes[0].values())
    for name, first in sizes[0].items():
        if first.any():
            assert not torch.equal(first, sizes[1][name]), name
    own = {name for name in sizes[0] if not name.startswith("model.layers")}
    assert bool(own) == (part in ("embedding", "head"))


def test_experts_get_other_numbers_of_tokens_in_every_round() -> None:
    bench = PartBench(plans.with_experts(replace(TINY, moe=None), 4), "moe", CPU)
    bench.use(1, 256)
    loads = []
    for _ in range(6):
        bench.prepare()
        with torch.no_grad():
            router = bench.decoder.model.layers["0"].mlp.router
            chosen = router(bench._hidden_BSD.flatten(0, 1)).experts
        loads.append(tuple(torch.bincount(chosen.flatten(), minlength=4).tolist()))
    assert len(set(loads)) == len(loads)
    assert all(sum(load) == 512 for load in loads)
    assert median(max(load) / 128 for load in loads) > 1.1


def test_the_optimiser_moves_every_parameter_and_clears_its_gradient() -> None:
    part = PartBench(TINY, "moe", CPU)
    before = {name: p.detach().clone() for name, p in part.decoder.named_parameters()}
    bench = OptimizerBench(part)
    with local_group():
        bench.prepare()
        bench.forward()
    for name, parameter in part.decoder.named_parameters():
        assert not torch.equal(parameter, before[name]), name
        assert parameter.grad is not None
        assert not parameter.grad.any()
    assert bench.parameters == sum(p.numel() for p in before.values())


@pytest.mark.parametrize(
    ("config", "part", "blocks"),
    [
        (plans.SMOLLM2, "dense", 10),
        (plans.with_experts(plans.SMOLLM2, 4), "moe", 3),
        (plans.with_experts(plans.SMOLLM2, 64), "moe", 1),
        (plans.FINE, "dense", 2),
        (TINY, "moe", 3),
    ],
)
def test_a_chain_is_larger_than_caches_or_all_there_is(
    config: ModelConfig, part: str, blocks: int
) -> None:
    only, share = alone(config, part)
    assert len(share.layer_numbers) == blocks
    layer = 0 if part == "dense" else config.layers - 1
    each = layer_parameters(config, whole(config), layer).total
    assert parameters(only, share) == blocks * each
    like = sum(config.has_experts(n) == (part == "moe") for n in range(config.layers))
    assert blocks == like or 4 * blocks * each >= CHAIN_BYTES > 4 * (blocks - 1) * each


def test_a_rank_alone_has_no_link() -> None:
    seen: list[tuple[int, int]] = []
    asked = replace(ASKED, ranks=1, micro_batches=(1,), config=replace(TINY, moe=None))
    (alone_,) = measure(asked, lambda done, total: seen.append((done, total)))
    assert alone_.wire is None
    assert {timed.part for timed in alone_.parts} == {"embedding", "dense", "head", "optimizer"}
    assert [done for done, _ in seen] == [1, 2, 3, 4, 5]
    assert {total for _, total in seen} == {5}


def test_a_rank_that_dies_is_told_and_none_is_left() -> None:
    before = set(active_children())

    def kill_one(done: int, total: int) -> None:
        (set(active_children()) - before).pop().kill()

    with pytest.raises(RankLost, match=r"rank \d (ended with code -9|could not measure)"):
        measure(ASKED, kill_one)
    assert set(active_children()) <= before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ranks": 0}, "--ranks is 0"),
        ({"threads": 0}, "--threads is 0"),
        ({"sequence_length": -1}, "--sequence-length is -1"),
        ({"micro_batches": (2, 0)}, "--micro-batch is 0"),
        ({"micro_batches": ()}, "--micro-batch is 0"),
        ({"seconds": 0.0}, "--seconds is 0"),
        ({"seconds": math.nan}, "--seconds is nan"),
        (
            {"config": PRESETS["deepseek-moe-145b"].config, "ranks": 10_000},
            r"10000 ranks .* need [\d,.]+ GB of memory, [\d.]+ [GM]B is free",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        measure(replace(ASKED, **changes))


def wire(latency: float, whole: float, summed: float = 1.0) -> Wire:
    return Wire(Message(4, (latency,)), Message(1004, (whole,)), Message(8, (summed, 3.0, 2.0)))


def test_a_link_is_the_time_of_one_number_and_what_more_takes() -> None:
    link = link_of([wire(0.5, 1.5), wire(0.7, 1.7), wire(0.6, 2.6)])
    assert link.latency_seconds == 0.6
    assert link.bytes_per_second == pytest.approx(1000 / 1.1)
    assert math.isfinite(link_of([wire(1.0, 0.9)]).bytes_per_second)
    assert sum_seconds([wire(1, 1, 1.0), wire(1, 1, 5.0)]) == (8, 2.5)


@pytest.mark.parametrize(("threads", "what"), [(1, "messages"), (2, "all figures")])
def test_a_busy_machine_is_a_caution(threads: int, what: str) -> None:
    idle = Found("cpu", Rates(1, 1), (), None, 0.97)
    asked = replace(ASKED, threads=threads)
    assert caution_of(asked, [idle, idle]) is None
    caution = caution_of(asked, [idle, replace(idle, share=0.5)])
    assert caution is not None
    assert "50%" in caution
    assert what in caution
