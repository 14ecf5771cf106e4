"""The table of numbers that training records about the router of one layer in one step.

The fields of ``LayerStatistics`` are the table. Each field says how its values of micro-batches and
replicas add up; the vector that ranks sum, the report of a step, the journal and the metrics follow
from these fields. A new number is one field here, and its computation in ``moe.nn.statistics``.

    drop_rate of two micro-batches of 10 and 30 tokens, 0.2 and 0.4:
    token mean = (0.2 * 10 + 0.4 * 30) / 40 = 0.35
"""

from dataclasses import dataclass, field, fields
from typing import Any, Literal

Adds = Literal["count", "token mean", "batch mean"]
"""How to combine the values of micro-batches: the sum, or the mean, weighted by tokens or
evenly.
"""


@dataclass(frozen=True, slots=True)
class Export:
    """How a statistic is exported as a metric: one value per layer or expert, or the sum over
    layers.
    """

    name: str
    unit: str
    description: str
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Statistic:
    """One line of the table. Step reports and the journal hold the statistics that are
    ``reported``.
    """

    name: str
    adds: Adds
    by_expert: bool
    optional: bool
    reported: bool
    export: Export | None


def _statistic(
    adds: Adds,
    export: Export | None = None,
    by_expert: bool = False,
    optional: bool = False,
    reported: bool = True,
) -> Any:
    about = {"adds": adds, "by_expert": by_expert, "optional": optional, "reported": reported}
    return field(metadata=about | {"export": export})


@dataclass(frozen=True, slots=True)
class LayerStatistics:
    """Statistics of one layer's router over a step: all micro-batches, all replicas.

    ``tokens`` counts tokens that are not padding. By expert: ``load`` counts (token, expert) pairs,
    ``probability`` is the mean probability. ``drop_rate`` is the share of pairs beyond capacity or,
    where experts choose, the share of tokens that no expert took. ``sharpness`` is the mean ratio
    of the two largest scores. Losses are before multiplication by their coefficients; None for a
    loss that the run does not use.
    """

    tokens: int = _statistic("count", reported=False)
    load: tuple[int, ...] = _statistic(
        "count",
        Export("expert_load", "fraction", "Share of (token, expert) pairs.", ("layer", "expert")),
        by_expert=True,
    )
    probability: tuple[float, ...] = _statistic("token mean", by_expert=True, reported=False)
    drop_rate: float = _statistic(
        "token mean",
        Export(
            "drop_rate",
            "fraction",
            "Share of dropped pairs, or of tokens that no expert took.",
            ("layer",),
        ),
    )
    balance_loss: float = _statistic(
        "batch mean",
        Export("balance_loss", "1", "Balance loss of the last step, summed over layers."),
    )
    sharpness: float = _statistic(
        "batch mean",
        Export("gate_sharpness", "1", "Mean ratio of the two largest scores.", ("layer",)),
    )
    z_loss: float | None = _statistic(
        "batch mean",
        Export("z_loss", "1", "Router z-loss of the last step, summed over layers."),
        optional=True,
    )
    device_loss: float | None = _statistic(
        "batch mean",
        Export("device_loss", "1", "Device balance loss of the last step, over all layers."),
        optional=True,
    )

    @property
    def reported(self) -> dict[str, Any]:
        """Names and values of the statistics in the report of a step."""
        return {each.name: getattr(self, each.name) for each in STATISTICS if each.reported}


STATISTICS: tuple[Statistic, ...] = tuple(
    Statistic(name=each.name, **each.metadata) for each in fields(LayerStatistics)
)
