"""Gating-logit normalisation (Skywork-MoE, section 4.1, figures 2 and 3)."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from moe.config.model import MoeConfig
from pipelines.study.arm import Arm, Scratch
from pipelines.study.compare import difference, together
from pipelines.study.findings import Chart, Claim, Findings, Table, loss_chart
from pipelines.study.lab import Lab
from pipelines.study.record import Record, curve
from pipelines.study.sizes import STANDARD, mixture
from pipelines.study.study import Asked, Study

NONE = "no normalisation"
DEVIATIONS: dict[str, float | None] = {
    NONE: None,
    "deviation 0.5": 0.5,
    "deviation 1": 1.0,
    "deviation 2": 2.0,
}
MODEL = MoeConfig(16, 2, STANDARD)
LAYER = 2
"""The third gating layer, whose ratios the paper shows."""

SAME = 0.005
"""Nats within which two losses are called equal; 0.002 lay between the paper's."""

FACTOR = 1.25
"""The capacity factor at which drop rates are counted; nothing is dropped."""


def _arm(name: str, asked: Asked, seed: int) -> Arm:
    model = mixture(replace(MODEL, gate_norm=DEVIATIONS[name]))
    routing = {"virtual_capacity_factor": FACTOR}
    return Arm(name, Scratch(model), asked.tokens, seed, routing=routing)


def _arms(asked: Asked) -> Sequence[Arm]:
    return [_arm(name, asked, seed) for name in DEVIATIONS for seed in asked.numbers]


def _findings(lab: Lab, asked: Asked) -> Findings:
    found = {
        name: lab.records([_arm(name, asked, seed) for seed in asked.numbers])
        for name in DEVIATIONS
    }
    about = (
        "A mixture of 16 experts, two for each token, trained from scratch with the logits of each "
        "token's gate normalised to a standard deviation, or not."
    )
    charts = [
        loss_chart(found),
        Chart(
            "Largest probability over the second, third layer",
            "tokens",
            "ratio",
            {name: _sharp(records) for name, records in found.items()},
        ),
    ]
    tables = [Table("After all tokens, means over seeds", [_row(n, r) for n, r in found.items()])]
    return Findings(STUDY.title, about, _claims(found), tables, charts)


def _claims(found: dict[str, list[Record]]) -> list[Claim]:
    loss = {name: [record.final.loss for record in some] for name, some in found.items()}
    sharp = {name: [each.final.sharpness[LAYER] for each in some] for name, some in found.items()}
    drops = {name: [record.drop_rate for record in some] for name, some in found.items()}
    gain = difference(loss["deviation 1"], loss[NONE])
    alike = difference(loss["deviation 2"], loss["deviation 1"])
    order = ["deviation 0.5", "deviation 1", "deviation 2"]
    steps = [
        difference(sharp[up], sharp[down]) for down, up in zip([NONE, *order], order, strict=False)
    ]
    fewer = difference(drops["deviation 1"], drops[NONE])
    early = [each.at(0.25).sharpness[LAYER] for each in found[NONE]]
    fades = difference(sharp[NONE], early)
    return [
        Claim(
            "Normalised gate logits give a lower loss",
            "section 4.1, figure 2",
            "-0.018 (deviation 1 against none)",
            gain.text,
            gain.below(),
        ),
        Claim(
            "Deviations 1 and 2 give about the same loss",
            "section 4.1",
            "-0.002",
            alike.text,
            alike.within(SAME),
            f"within {SAME} nats",
        ),
        Claim(
            "The gate is sharper the larger the deviation",
            "figure 3",
            "1.00, 1.57, 3.10, 5.56",
            ", ".join(f"{fmean(sharp[name]):.2f}" for name in [NONE, *order]),
            together([step.above() for step in steps]),
            "largest probability over the second, third layer",
        ),
        Claim(
            "Without normalisation the gate fades to equal probabilities",
            "figure 3",
            "1.5 early, 1.00 at the end",
            f"{fmean(early):.2f} early, {fmean(sharp[NONE]):.2f} at the end",
            fades.below(),
        ),
        Claim(
            "With normalisation fewer tokens are dropped",
            "figure 2",
            "0.011 against 0.022",
            f"{fmean(drops['deviation 1']):.3f} against {fmean(drops[NONE]):.3f}",
            fewer.below(),
            f"at a capacity factor of {FACTOR:g}; the paper's is not known",
        ),
    ]


def _row(name: str, records: Sequence[Record]) -> dict[str, str | float]:
    return {
        "gate": name,
        "training loss": fmean(record.training_loss for record in records),
        "held-out loss": fmean(record.final.loss for record in records),
        "drop rate": fmean(record.drop_rate for record in records),
        "largest / second, third layer": fmean(each.final.sharpness[LAYER] for each in records),
        "similarity": fmean(fmean(record.final.similarity) for record in records),
    }


def _sharp(records: Sequence[Record]) -> list[tuple[float, float]]:
    return curve(records, lambda look: look.sharpness[LAYER])


STUDY = Study("gates", "Normalised gate logits", 4_000_000, 3, _arms, _findings)
