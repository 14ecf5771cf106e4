"""Ways to upcycle a dense model, ranked after the same tokens."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from moe.surgery.methods import method_named
from moe.surgery.options import UpcycleOptions
from pipelines.study.arm import Arm, Scratch, Upcycled
from pipelines.study.compare import difference
from pipelines.study.findings import Chart, Claim, Findings, Table, loss_chart
from pipelines.study.lab import Lab
from pipelines.study.record import Record, curve
from pipelines.study.sizes import DENSE
from pipelines.study.study import Asked, Study

COPY = "copy"
PEAK, FLOOR = 1.8e-3, 3e-4


def _method(name: str, experts: int, top_k: int, **options: Any) -> UpcycleOptions:
    made = method_named(name, options)
    return UpcycleOptions(experts, top_k, gate_norm=1.0, method=made, family="raymoe")


METHODS: dict[str, UpcycleOptions] = {
    COPY: _method("copy", 8, 2),
    "noise": _method("noise", 8, 2),
    "drop": _method("drop", 8, 2),
    "virtual groups": _method("virtual-group", 16, 4, granularity=2),
}
"""All have eight feed-forwards of parameters a layer, of which a token uses two."""


def _dense(asked: Asked, seed: int) -> Arm:
    return Arm("dense", Scratch(DENSE), asked.tokens, seed, looks=(1.0,), keeps=(1.0,))


def _arm(name: str, asked: Asked, seed: int) -> Arm:
    start = Upcycled(_dense(asked, seed), 1.0, METHODS[name])
    return Arm(name, start, asked.tokens, seed, PEAK, FLOOR, looks=(0.05, 0.25, 0.5, 0.75, 1.0))


def _arms(asked: Asked) -> Sequence[Arm]:
    mixtures = [_arm(name, asked, seed) for name in METHODS for seed in asked.numbers]
    return [*(_dense(asked, seed) for seed in asked.numbers), *mixtures]


def _findings(lab: Lab, asked: Asked) -> Findings:
    found = {
        name: lab.records([_arm(name, asked, seed) for seed in asked.numbers]) for name in METHODS
    }
    about = (
        "A dense model, upcycled in each way to eight feed-forwards of parameters a layer, of "
        "which a token uses two, and trained on as many tokens as the dense model had."
    )
    ranked = sorted(found, key=lambda name: fmean(each.final.loss for each in found[name]))
    rows = [_row(place, name, found[name]) for place, name in enumerate(ranked, start=1)]
    alike = {
        name: curve(records, lambda look: fmean(look.similarity)) for name, records in found.items()
    }
    charts = [
        loss_chart(found),
        Chart("Similarity of experts", "tokens", "mean cosine", alike),
    ]
    tables = [Table("After all tokens, means over seeds, the best first", rows)]
    return Findings(STUDY.title, about, _claims(found), tables, charts)


def _claims(found: dict[str, list[Record]]) -> list[Claim]:
    claims = []
    for name in METHODS:
        if name == COPY:
            continue
        gap = difference(
            [record.final.loss for record in found[name]],
            [record.final.loss for record in found[COPY]],
        )
        claims.append(
            Claim(
                f"Experts that begin apart ({name}) end with a lower loss than copies",
                "section 3: experts of the worst runs stay alike",
                "no figure",
                gap.text,
                gap.below(),
            )
        )
    return claims


def _row(place: int, name: str, records: Sequence[Record]) -> dict[str, str | float | int]:
    return {
        "place": place,
        "method": name,
        "held-out loss": fmean(record.final.loss for record in records),
        "after a twentieth": fmean(record.looks[0].loss for record in records),
        "similarity": fmean(fmean(record.final.similarity) for record in records),
    }


STUDY = Study("methods", "Ways to upcycle", 3_000_000, 3, _arms, _findings)
