"""The adaptive coefficient of the balance loss beside fixed ones, from bad routers (Skywork-MoE,
section 4.2).
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from pipelines.study.arm import Arm, Continued, Scratch, Start
from pipelines.study.compare import difference
from pipelines.study.findings import Chart, Claim, Findings, Table
from pipelines.study.lab import Lab
from pipelines.study.record import Record
from pipelines.study.sizes import SKYWORK, mixture
from pipelines.study.study import Asked, Study

ADAPTIVE = "adaptive"
FIXED = (0.0, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
MODEL = mixture(SKYWORK)
BALANCED = 0.05
"""A drop rate at or below this is balanced: at it the adaptive coefficient reaches its maximum."""

FACTOR = 1.25
STARTS = ("half unused", "two take half", "trained without balance")
HIDDEN = "fixed 0.0001"
"""Left out of the chart, which can tell six lines apart; it lies on that of 0."""

AGILE = {"type": "adaptive", "beta": 0.9}
"""The paper's 0.99 averages over 69 steps of a run of hundreds of thousands; ours has hundreds."""


def _coefficients() -> Mapping[str, Mapping[str, Any]]:
    fixed = {f"fixed {value:g}": {"type": "fixed", "value": value} for value in FIXED}
    return {ADAPTIVE: AGILE, **fixed}


def _start(name: str, asked: Asked, seed: int) -> Start:
    if name == "half unused":
        return Scratch(MODEL, "half unused")
    if name == "two take half":
        return Scratch(MODEL, "two take half")
    before = {"coefficient": {"type": "fixed", "value": 0.0}}
    free = Arm(name, Scratch(MODEL), asked.tokens, seed, looks=(1.0,), keeps=(1.0,), balance=before)
    return Continued(free, 1.0)


def _arm(coefficient: str, start: str, asked: Asked, seed: int) -> Arm:
    return Arm(
        f"{coefficient}, {start}",
        _start(start, asked, seed),
        asked.tokens,
        seed,
        balance={"coefficient": dict(_coefficients()[coefficient])},
        routing={"virtual_capacity_factor": FACTOR},
    )


def _arms(asked: Asked) -> Sequence[Arm]:
    return [
        _arm(coefficient, start, asked, seed)
        for coefficient in _coefficients()
        for start in STARTS
        for seed in asked.numbers
    ]


def _findings(lab: Lab, asked: Asked) -> Findings:
    found = {
        name: [
            lab.record(_arm(name, start, asked, seed)) for start in STARTS for seed in asked.numbers
        ]
        for name in _coefficients()
    }
    about = (
        "A mixture of 8 experts, two for each token, from three bad starts: half of the experts "
        "unused, two experts in half of all pairs, and a router that was trained without a balance "
        "loss. Each start and seed is one case."
    )
    notes = [
        f"Drop rates are counted at a capacity factor of {FACTOR:g}; nothing is dropped.",
        "The adaptive coefficient averages over 10 steps (beta 0.9); the paper's beta is 0.99.",
    ]
    first = {name: records[0] for name, records in found.items()}
    charts = [
        Chart(
            f"Drop rate, mean over layers, from {STARTS[0]}",
            "step",
            "fraction",
            {
                name: [(float(n), fmean(step.drops)) for n, step in enumerate(record.steps)]
                for name, record in first.items()
                if name != HIDDEN
            },
        ),
        Chart(
            f"The adaptive coefficient by layer, from {STARTS[0]}",
            "step",
            "coefficient",
            {
                f"layer {layer}": [
                    (float(n), step.coefficients[layer])
                    for n, step in enumerate(first[ADAPTIVE].steps)
                ]
                for layer in range(MODEL.layers)
            },
        ),
    ]
    rows = [_row(name, records) for name, records in found.items()]
    tables = [
        Table("At the end, means over starts and seeds", rows),
        Table("Drop rate at the end by layer", [_by_layer(n, r) for n, r in found.items()]),
    ]
    return Findings(STUDY.title, about, _claims(found), tables, charts, notes)


def _claims(found: Mapping[str, list[Record]]) -> list[Claim]:
    loss = {name: [each.training_loss for each in records] for name, records in found.items()}
    drops = {name: [each.drop_rate for each in records] for name, records in found.items()}
    balanced = [name for name in found if fmean(drops[name]) <= BALANCED]
    rivals = [name for name in balanced if name != ADAPTIVE]
    none = difference(drops[ADAPTIVE], drops["fixed 0"])
    ends = [each.steps[-1].coefficients for each in found[ADAPTIVE]]
    claims = [
        Claim(
            "The adaptive coefficient brings a bad router into balance",
            "section 4.2, figure 4",
            "0.004 to 0.005, mean of 52 layers",
            f"{fmean(drops[ADAPTIVE]):.4f} against {fmean(drops['fixed 0']):.4f} without",
            none.below(),
            f"drop rates of {len(drops[ADAPTIVE])} cases",
        ),
        Claim(
            "It ends below its maximum: layers in balance need little of it",
            "figure 4",
            "0.0007 to 0.0077 by layer, maximum 0.01",
            f"{min(map(min, ends)):.4f} to {max(map(max, ends)):.4f}",
            "holds" if max(map(max, ends)) < 0.01 else "does not hold",
        ),
    ]
    if rivals:
        best = min(rivals, key=lambda name: fmean(loss[name]))
        gap = difference(loss[ADAPTIVE], loss[best])
        claims.append(
            Claim(
                "Its loss is not above that of the best fixed coefficient in balance",
                "section 4.2",
                "no table of fixed coefficients",
                f"{gap.text} against {best}",
                "does not hold" if gap.above() == "holds" else "holds",
                f"of the fixed ones with a drop rate up to {BALANCED:g}: {', '.join(rivals)}",
            )
        )
    return claims


def _row(name: str, records: Sequence[Record]) -> dict[str, str | float]:
    return {
        "coefficient": name,
        "training loss": fmean(record.training_loss for record in records),
        "held-out loss": fmean(record.final.loss for record in records),
        "drop rate": fmean(record.drop_rate for record in records),
        "at the end": fmean(fmean(record.steps[-1].coefficients) for record in records),
    }


def _by_layer(name: str, records: Sequence[Record]) -> dict[str, str | float]:
    def mean(layer: int) -> float:
        return fmean(step.drops[layer] for record in records for step in record.tail)

    layers = {f"layer {layer}": mean(layer) for layer in range(MODEL.layers)}
    return {"coefficient": name, **layers}


STUDY = Study("coefficients", "The adaptive coefficient", 1_000_000, 1, _arms, _findings)
