"""DeepSeekMoE beside other ways to spend the same parameters (its tables 1 and 2)."""

from collections.abc import Sequence
from statistics import fmean

from moe.config.model import ModelConfig
from pipelines.study.arm import Arm, Scratch
from pipelines.study.compare import difference
from pipelines.study.findings import Claim, Findings, Table, loss_chart
from pipelines.study.lab import Lab
from pipelines.study.record import Record
from pipelines.study.sizes import DEEPSEEK, DENSE, GSHARD, HASH, SWITCH, mixture, wide
from pipelines.study.study import Asked, Study

OURS = "DeepSeekMoE"
MODELS: dict[str, ModelConfig] = {
    "dense": DENSE,
    "dense x4": wide(4),
    "hash": mixture(HASH),
    "Switch": mixture(SWITCH),
    "GShard": mixture(GSHARD),
    OURS: mixture(DEEPSEEK),
}
PAPER = {
    "dense": 2.060,
    "dense x4": 1.908,
    "hash": 1.932,
    "Switch": 1.881,
    "GShard": 1.867,
    OURS: 1.808,
}
"""Loss on the Pile of models of 2B parameters after 100B tokens (tables 1 and 9)."""

BETTER = (
    (OURS, "GShard"),
    (OURS, "dense x4"),
    ("GShard", "Switch"),
    ("Switch", "hash"),
    ("hash", "dense"),
)
BALANCE = {"loss": "switch", "coefficient": {"type": "fixed", "value": 0.01}}
"""The expert-level balance loss of DeepSeekMoE section 3.3 with its factor for 2B."""


def arm(name: str, asked: Asked, seed: int) -> Arm:
    """Return the arm of one architecture; other studies ask for its trained model."""
    routed = MODELS[name].moe is not None and name != "hash"
    balance = BALANCE if routed else {}
    return Arm(name, Scratch(MODELS[name]), asked.tokens, seed, balance=balance, keeps=(1.0,))


def _arms(asked: Asked) -> Sequence[Arm]:
    return [arm(name, asked, seed) for name in MODELS for seed in asked.numbers]


def _findings(lab: Lab, asked: Asked) -> Findings:
    found = {
        name: lab.records([arm(name, asked, seed) for seed in asked.numbers]) for name in MODELS
    }
    about = (
        "Six decoders from scratch on the same text: dense, dense with a feed-forward four times "
        "as wide, and four mixtures with the parameters of sixteen feed-forwards a layer."
    )
    rows = [_row(name, records) for name, records in found.items()]
    return Findings(
        STUDY.title,
        about,
        _claims(found),
        [Table("After all tokens, means over seeds", rows)],
        [loss_chart(found)],
    )


def _claims(found: dict[str, list[Record]]) -> list[Claim]:
    claims = []
    for better, worse in BETTER:
        gap = difference(
            [record.final.loss for record in found[better]],
            [record.final.loss for record in found[worse]],
        )
        claims.append(
            Claim(
                f"{better} has a lower loss than {worse}",
                "tables 1 and 9",
                f"{PAPER[better] - PAPER[worse]:+.3f}",
                gap.text,
                gap.below(),
            )
        )
    return claims


def _row(name: str, records: Sequence[Record]) -> dict[str, str | float | int]:
    return {
        "model": name,
        "parameters": records[0].parameters,
        "active": records[0].active,
        "held-out loss": fmean(record.final.loss for record in records),
        "paper": PAPER[name],
        "seconds": fmean(record.seconds for record in records),
    }


STUDY = Study("architectures", "DeepSeekMoE and its rivals", 4_000_000, 3, _arms, _findings)
