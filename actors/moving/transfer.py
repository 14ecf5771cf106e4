"""Values of a resize: what a process is told, what it says of itself, what it reports. Values."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from actors.commands import BuildCommand
from moe.config.balance_state import BalanceState
from moe.config.model import ModelConfig
from moe.config.products import Products, by_processor
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
    """One process's part of a resize at the boundary after ``step`` steps.

    ``command`` is what it becomes, None where it only gives.
    """

    step: int
    place: Place
    part: Part
    config: ModelConfig
    command: BuildCommand | None


@dataclass(frozen=True, slots=True)
class Standing:
    """What training has come to beside tensors: balance of layers, rules of products by processor.

    Of all processes, or what one of them knows.
    """

    balance: Mapping[int, BalanceState]
    products: Mapping[str, Products]


@dataclass(frozen=True, slots=True)
class Moved:
    """What a process sent and received, in bytes of tensors, and how long it took."""

    sent_bytes: int
    received_bytes: int
    seconds: float


def joined(standings: Iterable[Standing]) -> Standing:
    """Return what several know together."""
    found = list(standings)
    balance = {layer: state for each in found for layer, state in each.balance.items()}
    products = by_processor(rules for each in found for rules in each.products.values())
    return Standing(balance, products)
