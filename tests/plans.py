"""Models, inventories and plans for every test that needs one; no torch."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

from hypothesis import strategies as st

from moe.config.model import ModelConfig, MoeConfig
from moe.config.share import shared_span
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import Device, Inventory
from moe.planning.plan.plan import LayerExperts, Plan, RankPlan, StagePlan
from moe.planning.search.interleave import Spans, spans_by_stage
from moe.planning.stages.split import groups, spans

SMOLLM2 = ModelConfig(
    family="llama",
    vocab_size=49152,
    hidden_size=576,
    layers=30,
    heads=9,
    kv_heads=3,
    head_size=64,
    ffn_size=1536,
    norm_eps=1e-5,
    rope_theta=1e5,
    max_positions=8192,
    tie_embeddings=True,
)

FINE = replace(
    SMOLLM2,
    family="raymoe",
    moe=MoeConfig(
        experts=16,
        top_k=3,
        expert_size=384,
        renormalise=False,
        dense_layers=(0, 7),
        shared_size=768,
        shared_gate=True,
    ),
)
"""SmolLM2 with fine-grained experts, a shared one with a gate, and two dense layers."""


def with_experts(config: ModelConfig, experts: int) -> ModelConfig:
    """Return the model upcycled: top-2, experts of the size of its feed-forward; 0 is dense."""
    moe = MoeConfig(experts=experts, top_k=min(2, experts), expert_size=config.ffn_size)
    return config.with_moe(moe, "mixtral")


def device(name: str = "a/0", node: str = "a", **changes: Any) -> Device:
    """Return a CPU device with memory for anything a test plans."""
    return replace(Device(name, node, "cpu", memory_bytes=64 * 10**9), **changes)


def inventory(count: int, **changes: Any) -> Inventory:
    """Return so many devices, alike, on one node."""
    return Inventory(tuple(device(f"a/{number}", **changes) for number in range(count)))


def single(config: ModelConfig) -> Plan:
    """Return the plan of one rank that holds everything."""
    rank = RankPlan(
        ("a/0",), (0, config.kv_heads), (0, config.ffn_size), tuple(range(config.placed_experts))
    )
    return Plan(config.summary(), (StagePlan((0, config.layers), (rank,)),))


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    """Draw a small model of any kind that may be built: odd heads, dense or with experts."""
    kv_heads = draw(st.integers(1, 5))
    config = ModelConfig(
        family="raymoe",
        vocab_size=draw(st.integers(3, 40)),
        hidden_size=draw(st.sampled_from([8, 12, 20])),
        layers=draw(st.integers(1, 6)),
        heads=kv_heads * draw(st.integers(1, 3)),
        kv_heads=kv_heads,
        head_size=draw(st.sampled_from([2, 4, 6])),
        ffn_size=draw(st.integers(5, 17)),
        norm_eps=1e-5,
        rope_theta=1e4,
        max_positions=64,
        tie_embeddings=draw(st.booleans()),
        attention_bias=draw(st.booleans()),
        output_bias=draw(st.booleans()),
        mlp_bias=draw(st.booleans()),
        query_key_norm=draw(st.sampled_from([None, "head", "all"])),
        sliding_window=draw(st.sampled_from([None, 1, 5])),
    )
    if not draw(st.booleans()):
        return config
    moe = draw(_experts(config.layers))
    if draw(st.integers(0, 4)) == 0:
        dense, experts = moe.dense_layers, moe.experts
        moe = MoeConfig(experts, 1, config.ffn_size, segment_tokens=3, dense_layers=dense)
    return replace(config, moe=moe)


@st.composite
def _experts(draw: st.DrawFn, layers: int) -> MoeConfig:
    """Draw a mixture of experts for a model of so many layers: hashed, or routed in any way."""
    dense = draw(st.sets(st.integers(0, layers - 1), max_size=layers - 1))
    shared = draw(st.sampled_from([0, 1, 3, 9, 30]))
    moe = MoeConfig(
        experts=draw(st.integers(1, 7)),
        top_k=1,
        expert_size=draw(st.integers(1, 9)),
        dense_layers=tuple(sorted(dense)),
        shared_size=shared,
        shared_gate=shared > 0 and draw(st.booleans()),
    )
    if draw(st.booleans()):
        return replace(moe, hashed=draw(st.booleans()))
    groups = draw(st.sampled_from([1, moe.experts]))
    top_groups = draw(st.integers(1, groups))
    return replace(
        moe,
        top_k=draw(st.integers(1, moe.experts // groups * top_groups)),
        gate_norm=draw(st.sampled_from([None, 1.0])),
        renormalise=draw(st.booleans()),
        score=draw(st.sampled_from(["softmax", "sigmoid"])),
        scale=draw(st.sampled_from([1.0, 2.5])),
        balance_bias=draw(st.booleans()),
        groups=groups,
        top_groups=top_groups,
    )


def any_plans(config: ModelConfig, most: int = 3) -> st.SearchStrategy[Plan]:
    """Draw a plan of one span of layers a stage, or of several."""
    counts = st.integers(1, min(most, config.layers))
    return counts.flatmap(lambda chunks: plans(config, chunks))


@st.composite
def replicated(draw: st.DrawFn, config: ModelConfig, names: Sequence[str]) -> Plan:
    """Draw a plan of one or more replicas, each rank on one of some devices of its own."""
    plan = draw(any_plans(config).filter(lambda plan: plan.ranks <= len(names)))
    replicas = draw(st.integers(1, len(names) // plan.ranks))
    order = iter(draw(st.permutations(names)))
    stages = []
    for stage in plan.stages:
        ranks = (
            replace(rank, devices=tuple(next(order) for _ in range(replicas)), threads=1)
            for rank in stage.ranks
        )
        stages.append(replace(stage, ranks=tuple(ranks)))
    return replace(plan, stages=tuple(stages))


def suiting(plan: Plan, workload: Workload) -> Workload:
    """Return the workload under a schedule that goes through the plan's spans of layers."""
    loop = "interleaved-1f1b" if plan.chunks > 1 else workload.schedule
    return replace(workload, schedule="zbv" if plan.folded else loop)


@st.composite
def plans(
    draw: st.DrawFn, config: ModelConfig, chunks: int = 1, folded: bool | None = None
) -> Plan:
    """Draw a plan of any valid shape for a model, made by hand as a person might; one replica.

    Every stage has so many spans of layers, for which the model has layers enough; two of them are
    in a loop or ``folded``, either if that is left open.
    """
    narrowest = min(config.kv_heads, config.ffn_size, config.shared_size or config.ffn_size)
    gang = draw(st.integers(1, narrowest))
    stages = draw(st.integers(1, config.layers // chunks))
    on_v = chunks == 2 and (draw(st.booleans()) if folded is None else folded)
    cuts = spans_by_stage(draw(_shares(config.layers, stages * chunks)), stages, on_v)
    made = [draw(_stage(config, gang, number, cut)) for number, cut in enumerate(cuts)]
    if config.tie_embeddings and not on_v:
        rows = [rank.vocabulary for rank in made[0].ranks]
        pairs = zip(made[-1].ranks, rows, strict=True)
        last = tuple(replace(rank, vocabulary=own) for rank, own in pairs)
        made[-1] = replace(made[-1], ranks=last)
    return Plan(config.summary(), tuple(made))


@st.composite
def _stage(draw: st.DrawFn, config: ModelConfig, gang: int, number: int, cut: Spans) -> StagePlan:
    held = [layer for span in cut for layer in range(*span)]
    recompute = draw(st.sets(st.sampled_from(held)))
    mixed = [layer for layer in held if config.has_experts(layer) and config.placed_experts]
    placed = draw(st.sets(st.sampled_from(mixed))) if mixed else set()
    return StagePlan(
        layers=cut[0],
        more=cut[1:],
        ranks=_ranks(draw, config, gang, number),
        seconds=draw(st.floats(0, 100)),
        recompute=tuple(sorted(recompute)),
        expert_layout=tuple(
            LayerExperts(layer, draw(_owned(config.placed_experts, gang)))
            for layer in sorted(placed)
        ),
    )


def _ranks(draw: st.DrawFn, config: ModelConfig, gang: int, stage: int) -> tuple[RankPlan, ...]:
    rows: tuple[tuple[int, int] | None, ...] = (None,) * gang
    if config.vocab_size >= gang and draw(st.booleans()):
        rows = spans(draw(_shares(config.vocab_size, gang)))
    heads = spans(draw(_shares(config.kv_heads, gang)))
    columns = draw(_columns(config, gang))
    experts = draw(_owned(config.placed_experts, gang))
    return tuple(
        RankPlan(
            (f"a/{stage * gang + member}",),
            heads[member],
            columns[member],
            experts[member],
            draw(st.integers(1, 4)),
            vocabulary=rows[member],
        )
        for member in range(gang)
    )


@st.composite
def _owned(draw: st.DrawFn, experts: int, gang: int) -> tuple[tuple[int, ...], ...]:
    """Draw the experts of each member of a gang: neighbours on each, or any, or none."""
    if experts >= gang and draw(st.booleans()):
        return groups(draw(_shares(experts, gang)))
    owners = draw(st.lists(st.integers(0, gang - 1), min_size=experts, max_size=experts))
    return tuple(
        tuple(expert for expert, owner in enumerate(owners) if owner == member)
        for member in range(gang)
    )


@st.composite
def _columns(draw: st.DrawFn, config: ModelConfig, gang: int) -> tuple[tuple[int, int], ...]:
    """Draw spans of the feed-forward that leave every rank some of the shared expert as well."""
    columns = spans(draw(_shares(config.ffn_size, gang)))
    shared = [shared_span(config, span) for span in columns]
    if config.shared_size and any(start == stop for start, stop in shared):
        edges = [0, *accumulate(draw(_shares(config.shared_size, gang)))]
        columns = tuple(
            pairwise(-(-edge * config.ffn_size // config.shared_size) for edge in edges)
        )
    return columns


@st.composite
def _shares(draw: st.DrawFn, total: int, parts: int) -> tuple[int, ...]:
    """Draw shares of at least 1 that sum to the total."""
    cuts = (
        draw(
            st.lists(st.integers(1, total - 1), min_size=parts - 1, max_size=parts - 1, unique=True)
        )
        if parts > 1
        else []
    )
    return tuple(stop - start for start, stop in pairwise([0, *sorted(cuts), total]))
