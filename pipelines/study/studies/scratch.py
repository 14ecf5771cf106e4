"""Upcycle a dense model or train from scratch, by budget (Skywork-MoE, section 3, figure 1).

The budgets are the paper's in small: a dense model trains on all its tokens; mixtures train on a
third of them or on all, from scratch, from the dense model after a third, or from its end.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean

from moe.planning.advice.upcycle_or_scratch import advise_budget
from moe.surgery.options import UpcycleOptions
from pipelines.study.arm import Arm, Scratch, Upcycled
from pipelines.study.compare import difference, together
from pipelines.study.findings import Chart, Claim, Findings, Table, loss_chart
from pipelines.study.lab import Lab
from pipelines.study.record import Record, curve
from pipelines.study.sizes import DENSE, SKYWORK, mixture
from pipelines.study.study import Asked, Study

THIRD = 1 / 3
PEAK, MIDDLE, HIGH, FLOOR = 3e-3, 1.8e-3, 1.2e-3, 3e-4
SCRATCH, EARLY, CONSTANT, RAISED = (
    "from scratch",
    "from a third of the dense run",
    "from its end, constant rate",
    "from its end, four times the rate",
)
OPTIONS = UpcycleOptions(
    experts=SKYWORK.experts, top_k=SKYWORK.top_k, gate_norm=SKYWORK.gate_norm, family="raymoe"
)
LOOKS = (0.067, 0.2, THIRD, 0.5, 0.65, 0.8, 1.0)
SAME = 0.01
"""Nats within which two losses are called a match; 0.005 lay between the paper's."""


def _dense(asked: Asked, seed: int) -> Arm:
    looks, keeps = (THIRD, 1.0), (THIRD, 1.0)
    return Arm("dense", Scratch(DENSE), asked.tokens, seed, PEAK, FLOOR, looks=looks, keeps=keeps)


def _arm(name: str, short: bool, asked: Asked, seed: int) -> Arm:
    tokens = round(asked.tokens * THIRD) if short else asked.tokens
    what = f"{name}, {'a third' if short else 'all'} of the tokens"
    if name == SCRATCH:
        return Arm(what, Scratch(mixture(SKYWORK)), tokens, seed, PEAK, FLOOR, looks=LOOKS)
    part = THIRD if name == EARLY else 1.0
    start = Upcycled(_dense(asked, seed), part, OPTIONS)
    if name == CONSTANT:
        return Arm(what, start, tokens, seed, FLOOR, FLOOR, warmup=0.0, looks=LOOKS)
    peak = MIDDLE if name == EARLY else HIGH
    return Arm(what, start, tokens, seed, peak, FLOOR, looks=LOOKS)


RUNS = (
    (SCRATCH, True),
    (EARLY, True),
    (CONSTANT, True),
    (SCRATCH, False),
    (EARLY, False),
    (CONSTANT, False),
    (RAISED, False),
)
PAPER = dict(zip(RUNS, (2.264, 2.259, 2.287, 2.200, 2.233, 2.250, 2.232), strict=True))
SIMILARITY = {SCRATCH: 0.00, EARLY: 0.077, CONSTANT: 0.23, RAISED: 0.15}
"""Of experts at the end of the long runs (figure 1)."""


def _arms(asked: Asked) -> Sequence[Arm]:
    mixtures = [_arm(*run, asked, seed) for run in RUNS for seed in asked.numbers]
    return [*(_dense(asked, seed) for seed in asked.numbers), *mixtures]


def _findings(lab: Lab, asked: Asked) -> Findings:
    found = {run: lab.records([_arm(*run, asked, seed) for seed in asked.numbers]) for run in RUNS}
    dense = lab.records([_dense(asked, seed) for seed in asked.numbers])
    about = (
        "A dense model, and mixtures of 8 experts (two for each token) with the same sizes, "
        "trained from scratch or from the dense model, with a third of its tokens or all of them."
    )
    long = {name: found[name, False] for name in (SCRATCH, EARLY, CONSTANT, RAISED)}
    charts = [
        loss_chart(long, "Held-out loss of the long runs"),
        Chart(
            "Similarity of experts of the long runs",
            "tokens",
            "mean cosine",
            {
                name: curve(records, lambda look: fmean(look.similarity))
                for name, records in long.items()
            },
        ),
    ]
    rows: list[dict[str, str | float]] = [
        {"run": "dense", "held-out loss": fmean(each.final.loss for each in dense), "paper": 2.440}
    ]
    rows += [_row(run, records, asked) for run, records in found.items()]
    crossings = [
        {"run": name, "scratch is better from": _crossing(long[SCRATCH], long[name])}
        for name in (EARLY, CONSTANT, RAISED)
    ]
    tables = [
        Table("At the end, means over seeds", rows),
        Table("Where the long runs cross, in tokens of the mixture", crossings),
    ]
    return Findings(STUDY.title, about, _claims(found), tables, charts)


def _claims(found: Mapping[tuple[str, bool], list[Record]]) -> list[Claim]:
    loss = {run: [record.final.loss for record in some] for run, some in found.items()}
    level = difference(loss[SCRATCH, True], loss[EARLY, True])
    tiny = [difference(loss[CONSTANT, True], loss[run, True]) for run in (SCRATCH, EARLY)]
    wins = [difference(loss[SCRATCH, False], loss[run, False]) for run in (EARLY, CONSTANT, RAISED)]
    alike = {
        name: [fmean(each.final.similarity) for each in found[name, False]] for name in SIMILARITY
    }
    order = (SCRATCH, EARLY, RAISED, CONSTANT)
    rising = [difference(alike[up], alike[down]).above() for down, up in pairwise(order)]
    apart = [
        difference(
            [fmean(each.final.similarity) for each in found[name, False]],
            [fmean(each.looks[0].similarity) for each in found[name, False]],
        ).below()
        for name in (EARLY, CONSTANT, RAISED)
    ]
    return [
        Claim(
            "With a third of the tokens, scratch and upcycling from a third are level",
            "section 3, figure 1",
            "+0.005",
            level.text,
            level.within(SAME),
            f"within {SAME} nats",
        ),
        Claim(
            "Both are better than upcycling from the end at a tiny constant rate",
            "figure 1",
            "+0.023, +0.028",
            " and ".join(each.text for each in tiny),
            together([each.above() for each in tiny]),
        ),
        Claim(
            "With as many tokens as the dense model had, scratch wins",
            "figure 1",
            "-0.033, -0.050, -0.032",
            ", ".join(each.text for each in wins),
            together([each.below() for each in wins]),
        ),
        Claim(
            "Experts of upcycled models grow apart while they train",
            "figure 1",
            "0.27 to 0.077; 0.72 to 0.23; 0.42 to 0.15",
            "; ".join(_fall(found[name, False]) for name in (EARLY, CONSTANT, RAISED)),
            together(apart),
        ),
        Claim(
            "The runs with the most similar experts are the worst",
            "figure 1",
            ", ".join(f"{SIMILARITY[name]:.2f}" for name in order),
            ", ".join(f"{fmean(alike[name]):.2f}" for name in order),
            together(rising),
            "similarity in the order: " + "; ".join(order),
        ),
    ]


def _fall(records: Sequence[Record]) -> str:
    first = fmean(fmean(record.looks[0].similarity) for record in records)
    return f"{first:.2f} to {fmean(fmean(record.final.similarity) for record in records):.2f}"


def _row(run: tuple[str, bool], records: Sequence[Record], asked: Asked) -> dict[str, str | float]:
    name, short = run
    return {
        "run": f"{name}, {'a third' if short else 'all'}",
        "held-out loss": fmean(record.final.loss for record in records),
        "paper": PAPER[run],
        "similarity": fmean(fmean(record.final.similarity) for record in records),
        "the rule says": _rule(run, asked),
    }


def _rule(run: tuple[str, bool], asked: Asked) -> str:
    """Return what ``raymoe advise`` says of a run and the dense checkpoint that it begins with."""
    name, short = run
    if name == SCRATCH:
        return ""
    tokens = asked.tokens * (THIRD if short else 1.0)
    dense = asked.tokens * (THIRD if name == EARLY else 1.0)
    advice = advise_budget(DENSE, mixture(SKYWORK), dense, tokens)
    return f"{advice.verdict} (cost {advice.ratio:.2g} of the dense run's)"


def _crossing(scratch: Sequence[Record], other: Sequence[Record]) -> str:
    """Return after how many tokens the loss from scratch falls below that of the other run."""
    ours = curve(scratch, lambda look: look.loss)
    theirs = curve(other, lambda look: look.loss)
    gaps = [(at, one - two) for (at, one), (_, two) in zip(ours, theirs, strict=True)]
    if gaps[0][1] < 0:
        return f"before {gaps[0][0]:,.0f}"
    for (before, above), (after, below) in pairwise(gaps):
        if below < 0:
            return f"{before + (after - before) * above / (above - below):,.0f}"
    return "not within the run"


STUDY = Study("scratch", "Upcycle or from scratch", 4_000_000, 2, _arms, _findings)
