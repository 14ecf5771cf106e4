"""Fine-grained and shared experts, one after the other (DeepSeekMoE, section 4.4, figure 3)."""

from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean

from moe.config.model import MoeConfig
from pipelines.study.arm import Arm, Scratch
from pipelines.study.compare import difference, together
from pipelines.study.findings import Claim, Findings, Table, loss_chart
from pipelines.study.lab import Lab
from pipelines.study.record import Record
from pipelines.study.sizes import GSHARD, STANDARD, fine_grained, mixture
from pipelines.study.studies.architectures import BALANCE
from pipelines.study.study import Asked, Study

STEPS: dict[str, MoeConfig] = {
    "GShard, 2 of 16": GSHARD,
    "one shared, 1 of 15": MoeConfig(15, 1, STANDARD, renormalise=False, shared_size=STANDARD),
    "cut in two, 1 shared, 3 of 31": fine_grained(2, 1),
    "cut in four, 1 shared, 7 of 63": fine_grained(4, 1),
}
SHARED = {1: "cut in four, 1 shared, 7 of 63"} | {
    count: f"cut in four, {count} shared, {8 - count} of {64 - count}" for count in (2, 4)
}
MODELS = STEPS | {name: fine_grained(4, count) for count, name in SHARED.items()}
PAPER_SHARED = {1: 1.808, 2: 1.806, 4: 1.811}
SAME = 0.01


def _arm(name: str, asked: Asked, seed: int) -> Arm:
    return Arm(name, Scratch(mixture(MODELS[name])), asked.tokens, seed, balance=BALANCE)


def _arms(asked: Asked) -> Sequence[Arm]:
    return [_arm(name, asked, seed) for name in MODELS for seed in asked.numbers]


def _findings(lab: Lab, asked: Asked) -> Findings:
    found = {
        name: lab.records([_arm(name, asked, seed) for seed in asked.numbers]) for name in MODELS
    }
    about = (
        "From a mixture of 16 experts, two for each token, to 63 of a quarter of the width "
        "beside a shared one: parameters and active parameters stay about equal."
    )
    rows: list[dict[str, str | float | int]] = [
        {
            "experts": name,
            "parameters": records[0].parameters,
            "active": records[0].active,
            "held-out loss": fmean(record.final.loss for record in records),
        }
        for name, records in found.items()
    ]
    return Findings(
        STUDY.title,
        about,
        _claims(found),
        [Table("After all tokens, means over seeds", rows)],
        [loss_chart(found)],
        ["The paper shows the steps by benchmark scores, in which each step is better."],
    )


def _claims(found: dict[str, list[Record]]) -> list[Claim]:
    loss = {name: [record.final.loss for record in some] for name, some in found.items()}
    steps = [difference(loss[after], loss[before]) for before, after in pairwise(STEPS)]
    names = ("A shared expert", "Cutting experts in two", "Cutting experts in four")
    claims = [
        Claim(f"{name} lowers the loss", "figure 3", "better", step.text, step.below())
        for name, step in zip(names, steps, strict=True)
    ]
    others = [difference(loss[SHARED[count]], loss[SHARED[1]]) for count in (2, 4)]
    paper = [PAPER_SHARED[count] - PAPER_SHARED[1] for count in (2, 4)]
    claims.append(
        Claim(
            "One, two or four shared experts of 64 give about the same loss",
            "section 4.4",
            ", ".join(f"{each:+.3f}" for each in paper),
            ", ".join(each.text for each in others),
            together([each.within(SAME) for each in others]),
            f"two and four against one, within {SAME} nats",
        )
    )
    return claims


STUDY = Study("granularity", "Fine-grained and shared experts", 3_000_000, 3, _arms, _findings)
