"""Plans whose ranks ask for this and that, and nodes that have it: for tests of where actors go."""

from collections.abc import Mapping, Sequence
from typing import Any

from actors.crew.nodes.room import Amounts, Room
from moe.planning.devices.naming import told_apart
from moe.planning.plan.plan import Plan, RankPlan, StagePlan

GB = 10**9


def plan(stages: Sequence[Sequence[Mapping[str, Any]]], devices: Sequence[str] = ("test",)) -> Plan:
    """Return a plan of stages of ranks that ask as said; ``devices`` of a rank, by replica.

    A gang is of at most 8 ranks. A device may be a format of ``stage`` and ``member``.
    """
    gang = len(stages[0])
    sizes = {"layers": len(stages), "hidden_size": 16, "heads": 8, "kv_heads": gang}
    sizes |= {"ffn_size": gang, "experts": 0, "shared_size": 0, "vocab_size": 32}
    return Plan(
        sizes,
        tuple(
            StagePlan(
                (number, number + 1),
                tuple(
                    RankPlan(
                        devices=tuple(name.format(stage=number, member=m) for name in devices),
                        kv_heads=(m, m + 1),
                        ffn=(m, m + 1),
                        experts=(),
                        **rank,
                    )
                    for m, rank in enumerate(ranks)
                ),
            )
            for number, ranks in enumerate(stages)
        ),
    )


def room(name: str, labels: Mapping[str, str] | None = None, **total: float) -> Room:
    """Return an idle node; its id is made of its name."""
    node_id = name.ljust(16, "0")
    return Room(node_id, (name, told_apart(name, node_id)), total, total, {**(labels or {})})


def taken(idle: Room, **amounts: float) -> Room:
    """Return a node of which others have taken something."""
    free: Amounts = {name: idle.total[name] - amounts.get(name, 0.0) for name in idle.total}
    return Room(idle.id, idle.names, idle.total, free, idle.labels)
