"""How redundant trained experts are: the best of each token masked, the shared one switched off,
fewer taken (DeepSeekMoE, section 4.5).
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from statistics import fmean

from moe.nn.ablation import Ablation
from pipelines.models.evaluate import evaluate_ablated
from pipelines.study.arm import Arm
from pipelines.study.compare import difference, together
from pipelines.study.findings import Chart, Claim, Findings, Table
from pipelines.study.lab import HELD_OUT, Lab
from pipelines.study.sizes import DEEPSEEK
from pipelines.study.studies.architectures import OURS, arm
from pipelines.study.study import Asked, Study

MASKS = tuple(Fraction(count, 16) for count in range(5))
PAPER = {OURS: (1.81, 7.47, 8.20, 8.70, 9.07), "GShard": (1.81, 5.59, 7.52, 7.63, 7.72)}
"""Pile losses of figure 4, whose GShard is 1.5 times as large."""

FEWER = (3, 4, 5, 6, 7)
PAPER_FEWER = (1.956, 1.868, 1.831, 1.814, 1.808)
PAPER_UNSHARED = 2.414 - 1.808

Losses = Sequence[Sequence[float]]
"""By seed, then by setting."""


def _arms(asked: Asked) -> Sequence[Arm]:
    return [arm(name, asked, seed) for name in PAPER for seed in asked.numbers]


def _findings(lab: Lab, asked: Asked) -> Findings:
    masked = {
        name: [_losses(lab, arm(name, asked, seed), _masks()) for seed in asked.numbers]
        for name in PAPER
    }
    ours = [arm(OURS, asked, seed) for seed in asked.numbers]
    fewer = [_losses(lab, each, [Ablation(top_k=count) for count in FEWER]) for each in ours]
    unshared = [_losses(lab, each, [None, Ablation(shared=False)]) for each in ours]
    about = (
        "The trained DeepSeekMoE and GShard of the study of architectures, evaluated without the "
        "experts that each token likes best, without the shared expert, and with fewer experts."
    )
    tables = [
        Table("Held-out loss where the best experts are masked", _mask_rows(masked)),
        Table(
            f"Held-out loss of {OURS} with fewer routed experts",
            [
                {
                    "routed experts": count,
                    "held-out loss": fmean(losses[number] for losses in fewer),
                    "paper": PAPER_FEWER[number],
                }
                for number, count in enumerate(FEWER)
            ],
        ),
    ]
    charts = [
        Chart(
            "Held-out loss where the best experts are masked",
            "share of the routed experts",
            "nats per token",
            {
                name: [
                    (float(mask), fmean(one[number] for one in losses))
                    for number, mask in enumerate(MASKS)
                ]
                for name, losses in masked.items()
            },
        )
    ]
    return Findings(STUDY.title, about, _claims(masked, fewer, unshared), tables, charts)


def _masks() -> list[Ablation | None]:
    return [Ablation(mask=mask) if mask else None for mask in MASKS]


def _losses(lab: Lab, trained: Arm, settings: Sequence[Ablation | None]) -> list[float]:
    model = lab.model(trained, 1.0)
    return [found.loss for found in evaluate_ablated(model, lab.tokens, HELD_OUT, settings)]


def _mask_rows(masked: Mapping[str, Losses]) -> list[dict[str, str | float]]:
    rows = []
    for number, mask in enumerate(MASKS):
        row: dict[str, str | float] = {"masked": str(mask)}
        for name, losses in masked.items():
            row[name] = fmean(one[number] for one in losses)
            row[f"{name}, paper"] = PAPER[name][number]
        rows.append(row)
    return rows


def _claims(masked: Mapping[str, Losses], fewer: Losses, unshared: Losses) -> list[Claim]:
    rise = {name: [one[1] - one[0] for one in losses] for name, losses in masked.items()}
    less_redundant = difference(rise[OURS], rise["GShard"])
    without = difference([one[1] for one in unshared], [one[0] for one in unshared])
    falling = [
        difference([one[number + 1] for one in fewer], [one[number] for one in fewer]).below()
        for number in range(len(FEWER) - 1)
    ]
    return [
        Claim(
            f"Masking a sixteenth of the best experts hurts {OURS} more than GShard",
            "figure 4",
            f"{5.66:+.2f} against {3.78:+.2f}",
            f"{fmean(rise[OURS]):+.2f} against {fmean(rise['GShard']):+.2f}",
            less_redundant.above(),
            "the paper's GShard is 1.5 times as large",
        ),
        Claim(
            "Without the shared expert, one more routed expert does not make up for it",
            "section 4.5",
            f"{PAPER_UNSHARED:+.3f}",
            without.text,
            without.above(),
        ),
        Claim(
            f"Each routed expert fewer than {DEEPSEEK.top_k} raises the loss",
            "figure 5",
            ", ".join(f"{each:.3f}" for each in PAPER_FEWER),
            ", ".join(f"{fmean(one[n] for one in fewer):.3f}" for n in range(len(FEWER))),
            together(falling),
        ),
    ]


STUDY = Study("redundancy", "Redundancy of experts", 4_000_000, 3, _arms, _findings)
