"""Figures of both papers at full size, counted and simulated: nothing is trained.

The simulation of Skywork-MoE's training has one number that is fitted, the part of the peak that
matrix products reach (``moe.planning.devices.rates.EFFICIENCY``), so its speed is no proof. What it
then says of MFU, memory and splits is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from moe.config.presets import preset
from moe.config.tensors import active_parameters, parameters
from moe.planning.counts.memory import Position, rank_bytes
from moe.planning.devices.rates import EFFICIENCY, GPUS
from moe.planning.prediction.predict import predict
from moe.planning.search.make import even_layers
from pipelines.planning.capacity import tokens_held, useful_flops
from pipelines.study import skywork
from pipelines.study.arm import Arm
from pipelines.study.compare import Verdict
from pipelines.study.findings import Claim, Findings, Table
from pipelines.study.lab import Lab
from pipelines.study.study import Asked, Study

BILLION, TERA = 1e9, 1e12
PARAMETERS = {
    "deepseek-moe-2b": (2.0, 0.3),
    "deepseek-moe-16b": (16.4, 2.8),
    "deepseek-moe-145b": (144.6, 22.2),
    "deepseek-moe-142b": (142.3, 12.2),
    "gshard-137b": (136.5, 21.6),
    "skywork-moe-146b": (146.0, 22.0),
}
"""Billions, total and active, as printed. The 12.2 of the half-activated model do not go with its
printed FLOPs, which ask for 13.6.
"""

FLOPS = {
    "dense": (2048, 2.9),
    "dense-x16": (2048, 24.6),
    "gshard": (2048, 4.3),
    "deepseek-moe-2b": (2048, 4.3),
    "deepseek-moe-16b": (4096, 74.4),
    "gshard-137b": (4096, 572.7),
    "deepseek-moe-145b": (4096, 585.6),
    "deepseek-moe-142b": (4096, 374.6),
}
"""Tokens of a sequence, and its tera FLOPs forward and backward, as printed."""

CLOSE, CLOSE_PARAMETERS = 0.03, 0.06
"""How near a count comes: FLOPs printed to two or three digits; parameters to one, so 0.3B may be
0.25 to 0.35.
"""
MFU = 0.38
HEADS = (5, 5, 5, 5, 4, 4, 4, 4)


def _arms(asked: Asked) -> Sequence[Arm]:
    return []


def _findings(lab: Lab, asked: Asked) -> Findings:
    totals = [_total(name) for name in PARAMETERS]
    actives = [_active(name) for name in PARAMETERS]
    flops = [_flops(name) for name in FLOPS]
    claims = [
        _counted(
            "The sizes give the printed parameters",
            "DeepSeekMoE tables 1, 3, 6; Skywork-MoE table 2",
            [*totals, *actives],
            CLOSE_PARAMETERS,
        ),
        _counted(
            "6 x active parameters, the embedding left out, and attention give the printed FLOPs",
            "DeepSeekMoE tables 1, 3, 6",
            flops,
            CLOSE,
        ),
        *_training(),
        *_serving(),
    ]
    about = "Parameters, FLOPs, speed and memory of the published models, from their sizes alone."
    tables = [
        Table("Parameters in billions", [each.row for each in [*totals, *actives]]),
        Table("Tera FLOPs of one sequence, forward and backward", [each.row for each in flops]),
    ]
    return Findings(STUDY.title, about, claims, tables)


@dataclass(frozen=True, slots=True)
class Figure:
    """A number that is counted, and the one that is printed."""

    what: str
    ours: float
    paper: float

    @property
    def row(self) -> dict[str, str | float]:
        """The figure in a table."""
        return {"figure": self.what, "ours": self.ours, "paper": self.paper}

    def near(self, part: float) -> bool:
        """Return whether ours is near, or rounds to the printed one in its last digit."""
        digits = len(str(self.paper).partition(".")[2])
        return abs(self.ours / self.paper - 1) <= part or round(self.ours, digits) == self.paper


def _total(name: str) -> Figure:
    return Figure(name, parameters(preset(name).config) / BILLION, PARAMETERS[name][0])


def _active(name: str) -> Figure:
    ours = active_parameters(preset(name).config) / BILLION
    return Figure(f"{name}, active", ours, PARAMETERS[name][1])


def _flops(name: str) -> Figure:
    length, printed = FLOPS[name]
    config = preset(name).config
    lookup = 6 * config.vocab_size * config.hidden_size
    ours = (useful_flops(config, length) - lookup) * length / TERA
    return Figure(f"{name}, {length} tokens", ours, printed)


def _counted(says: str, source: str, figures: Sequence[Figure], part: float) -> Claim:
    far = [each.what for each in figures if not each.near(part)]
    ours = f"{len(figures) - len(far)} of {len(figures)} figures within {part:.0%}"
    why = f"not: {', '.join(far)}" if far else ""
    return Claim(says, source, "see the table", ours, _all(not far), why)


def _training() -> list[Claim]:
    inventory = skywork.cluster(EFFICIENCY)
    found = skywork.trained(inventory, skywork.SHAPE)
    even = predict(skywork.CONFIG, even_layers(found.plan), inventory, found.workload)
    ours = predict(skywork.CONFIG, found.plan, inventory, found.workload)
    gpus = skywork.NODES * skywork.GPUS_PER_NODE
    speed = even.tokens_per_second / gpus
    peak = GPUS[skywork.KIND].sixteen_bit_flops
    mfu = speed * useful_flops(skywork.CONFIG, skywork.LENGTH) / peak
    layers = " ".join(str(len(stage.layer_numbers)) for stage in found.plan.stages)
    gain = ours.tokens_per_second / even.tokens_per_second
    return [
        Claim(
            "1,536 A800 train at 690 tokens a second and GPU",
            "Skywork-MoE section B.3",
            "690",
            f"{speed:.0f}, simulated",
            _all(Figure("", speed, skywork.PUBLISHED).near(CLOSE)),
            f"fitted: products reach {EFFICIENCY:.3f} of the peak",
        ),
        Claim(
            "That is 38 % of the peak",
            "section B.3",
            "0.38",
            f"{mfu:.2f}",
            _all(Figure("", mfu, MFU).near(CLOSE)),
            "690 x (6 x active parameters + attention) / 312 TFLOP/s is 0.35: the paper counts "
            "something more",
        ),
        Claim(
            "An uneven split of layers is faster than an even one",
            "section B.2: up to 10 % with one more stage",
            "1.10",
            f"{gain:.3f} with stages of {layers} layers",
            _all(gain > 1.0),
            "at the same number of stages",
        ),
    ]


def _serving() -> list[Claim]:
    found, there, workload = skywork.served(), skywork.server(), skywork.serving()
    (stage,) = found.plan.stages
    heads = tuple(rank.kv_heads[1] - rank.kv_heads[0] for rank in stage.ranks)
    shares = [found.plan.share(seat) for seat in found.plan.seats.of_replica(0)]
    sizes = [
        rank_bytes(skywork.CONFIG, share, Position(), workload).weights / BILLION
        for share in shares
    ]
    held = tokens_held(skywork.CONFIG, found.plan, there, workload)
    return [
        Claim(
            "In fp8 the model fits a server of eight 4090",
            "Skywork-MoE, press; fork of vLLM",
            "146 GB of 192",
            f"{sum(sizes):.0f} GB, {max(sizes):.1f} on the fullest; {held:,} tokens of cache",
            _all(max(sizes) * BILLION < skywork.USED * skywork.CARD_BYTES and held > 0),
        ),
        Claim(
            "36 heads are split over eight cards as 5, 5, 5, 5, 4, 4, 4, 4",
            "fork of vLLM",
            ", ".join(map(str, HEADS)),
            ", ".join(map(str, heads)),
            _all(heads == HEADS),
        ),
    ]


def _all(true: bool) -> Verdict:
    return "holds" if true else "does not hold"


STUDY = Study("published", "Published figures, counted and simulated", 0, 0, _arms, _findings)
