"""Values of a resize: what a process is told, what it says of itself, what it reports. Values."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from actors.commands import BuildCommand
from moe.config.balance_state import BalanceState
from moe.config.model import ModelConfig
from moe.config.products import Products, by_processor
from moe.errors import RankLost
from moe.planning.moves.messages import Part


@dataclass(frozen=True, slots=True)
class Place:
    """Where the processes of a resize meet: the store that number 0 of them has opened.

    ``name`` is that of the resize, which no other of the run has. ``seconds`` bounds every wait for
    one message.
    """

    name: str
    host: str
    port: int
    size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Transfer:
    """One process's part of a resize; ``command`` is what it becomes, None where it only gives."""

    place: Place
    part: Part
    config: ModelConfig
    command: BuildCommand | None


@dataclass(frozen=True, slots=True)
class Standing:
    """What training has come to beside tensors: steps, balance of layers, rules by processor."""

    step: int
    balance: Mapping[int, BalanceState]
    products: Mapping[str, Products]


@dataclass(frozen=True, slots=True)
class Moved:
    """What a process sent and received, in bytes of tensors, and how long it took."""

    sent_bytes: int
    received_bytes: int
    seconds: float


def agreed(standings: Iterable[Standing]) -> Standing:
    """Return what training as a whole has come to; RankLost where processes stand apart."""
    found = list(standings)
    steps = sorted({each.step for each in found})
    if len(steps) != 1:
        raise RankLost(
            f"the processes of a resize have done {steps} steps; all must stand at one boundary: "
            "heal the run first, then resize"
        )
    balance = {layer: state for each in found for layer, state in each.balance.items()}
    products = by_processor(rules for each in found for rules in each.products.values())
    return Standing(steps[0], balance, products)
