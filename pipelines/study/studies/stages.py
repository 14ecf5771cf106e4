"""Uneven stages and recomputation at equal stage counts, simulated and measured (Skywork-MoE,
section B.2).
"""

from collections.abc import Sequence
from dataclasses import replace

from moe.planning.schedules.simulate import StageTimes, simulate
from moe.staging import staged
from moe.surgery.initialise import initialise
from pipelines.study.arm import Arm
from pipelines.study.compare import Verdict
from pipelines.study.findings import Claim, Findings, Table
from pipelines.study.lab import LENGTH, Lab
from pipelines.study.pair import Pair, Timing
from pipelines.study.sizes import DENSE
from pipelines.study.study import Asked, Study

LOSS = 2.0
"""Layers that the loss costs in the paper's drawing: a third of a forward pass of six layers."""

BACKWARD = 2.0
MICRO_BATCHES = 16
SPLITS = ((6, 6, 6, 6), (7, 6, 6, 5), (5, 5, 5, 5, 4))
MODEL = replace(DENSE, hidden_size=256, heads=8, kv_heads=8, head_size=32, ffn_size=768, layers=12)
STEPS, TURNS = 5, 3
CLOSE = 0.15
RECOMPUTED = 4 / 3
"""What a step costs where every forward pass is computed twice, of one where backward takes twice
as long as forward.
"""


def _arms(asked: Asked) -> Sequence[Arm]:
    return []


def _findings(lab: Lab, asked: Asked) -> Findings:
    simulated = [_simulated(split) for split in SPLITS]
    even, planned, again = _measured(lab)
    about = (
        "The paper's 24 layers in a simulated 1F1B pipeline, and 12 layers in two processes of one "
        "thread on this machine, planned from a profile that is measured first."
    )
    tables = [
        Table(f"Simulated, {MICRO_BATCHES} micro-batches, steps in layers", simulated),
        Table(
            "Measured, two stages of one thread",
            [_row("even", even), _row("planned", planned), _row("even, recomputed", again)],
        ),
    ]
    claims = [*_claims(simulated), *_measured_claims(even, planned, again)]
    return Findings(STUDY.title, about, claims, tables)


def _simulated(split: Sequence[int]) -> dict[str, str | float]:
    """Play 1F1B with a second for the forward pass of a layer; the last stage has the loss too."""
    times = [StageTimes(float(layers), BACKWARD * layers) for layers in split]
    last = split[-1] + LOSS
    times[-1] = StageTimes(last, BACKWARD * last)
    played = simulate("1f1b", times, MICRO_BATCHES, [0.0] * (len(split) - 1))
    work = sum(split) + LOSS
    return {
        "layers": " ".join(map(str, split)),
        "step": played.makespan,
        "bubble": max(played.bubble),
        "step x devices": played.makespan * len(split) / work,
    }


def _claims(simulated: Sequence[dict[str, str | float]]) -> list[Claim]:
    even, moved, five = simulated
    assert isinstance(even["step"], float)
    assert isinstance(moved["step"], float)
    assert isinstance(five["bubble"], float)
    assert isinstance(even["bubble"], float)
    gain = even["step"] / moved["step"]
    return [
        Claim(
            "Uneven stages cut the time that devices wait",
            "section B.2: [6,6,6,6] against [5,5,5,5,4]",
            "by up to 10 %",
            f"{even['bubble']:.3f} to {five['bubble']:.3f} of a step, worst stage",
            _judged(five["bubble"] < even["bubble"]),
            "simulated; the example has one more stage",
        ),
        Claim(
            "With four stages, too, a step is shorter",
            "not in the paper",
            "",
            f"{gain:.3f} times as fast",
            _judged(gain > 1),
            "simulated, layers 7 6 6 5",
        ),
    ]


def _measured(lab: Lab) -> list[Timing]:
    model = lab.folder / "stages"
    if not model.exists():
        with staged(model) as partial:
            initialise(MODEL, partial / "model", seed=0)
    pair = Pair(model / "model", MODEL, lab.tokens, STEPS, MICRO_BATCHES)
    return pair.timed([pair.even, pair.planned, pair.recomputing], TURNS)


def _measured_claims(even: Timing, planned: Timing, again: Timing) -> list[Claim]:
    gain, promised = even.measured / planned.measured, even.predicted / planned.predicted
    cost = again.measured / even.measured
    gaps = [abs(each.measured / each.predicted - 1) for each in (even, planned, again)]
    same = even.losses == again.losses
    return [
        Claim(
            "On this machine the planned stages are faster than even ones",
            "section B.2",
            "1.10",
            f"{gain:.3f} times as fast, {promised:.3f} predicted",
            _judged(gain > 1),
            f"{_split(even)} against {_split(planned)} layers, sequences of {LENGTH}",
        ),
        Claim(
            "Recomputing all layers costs a third of a step and changes no number",
            "section B.2: recomputation by stage",
            f"{RECOMPUTED:.2f} by count",
            f"{cost:.2f}; losses {'equal to the bit' if same else 'differ'}",
            _judged(same and abs(cost / RECOMPUTED - 1) <= CLOSE),
            f"within {CLOSE:.0%}",
        ),
        Claim(
            "Steps take as long as predicted",
            "ours",
            "",
            f"{max(gaps):.1%} off at most",
            _judged(max(gaps) <= CLOSE),
            f"within {CLOSE:.0%}; other work on this machine counts against it",
        ),
    ]


def _row(what: str, timing: Timing) -> dict[str, str | float | int]:
    return {
        "stages": what,
        "layers": _split(timing),
        "recomputed": timing.recomputed,
        "predicted s": timing.predicted,
        "measured s": timing.measured,
    }


def _split(timing: Timing) -> str:
    return " ".join(map(str, timing.layers))


def _judged(true: bool) -> Verdict:
    return "holds" if true else "does not hold"


STUDY = Study("stages", "Uneven stages and recomputation", 0, 0, _arms, _findings)
