"""Upcycle a dense checkpoint, or train the mixture of experts from scratch?

Skywork-MoE section 3 compares what the MoE run will cost with what the dense checkpoint has cost:

    C_moe << C_dense       upcycle
    C_moe >= 2 C_dense     from scratch
    no dense model         from scratch; never train one only to upcycle it

and leaves what is between open, here ``borderline``. A cost is device time for tokens T:

    FLOPs        T (6 A  +  12 L Q S)       A active parameters, L layers, Q query columns and S
                                            the sequence length, the last term where S is given
    C_moe        FLOPs x communication      experts exchange tokens, dense layers do not
    ratio        C_moe / C_dense

The dense cost is sunk: it is paid whatever comes next, and serves only to weigh what the checkpoint
knows against what the MoE run can learn by itself. If the dense model is not trained yet, both
costs are paid (cumulative cost), and the same total cost from scratch buys more MoE tokens:
``scratch_tokens``.

What the study measured: 0.3B dense, C its 300B tokens; MoE of 8 experts, top-2; final losses in
nats read from its figure 1, the dense model's own being 2.440:

    MoE tokens (cost)      scratch    from dense at 100B      from dense at 300B
    100B       (2/3 C)       2.264                 2.259      2.287 at a constant 3e-4
    300B       (2 C)         2.200                 2.233      2.250 at that, 2.232 at 1.2e-3

Counted by the checkpoint each came from, those ratios are 2 and 6 at 100B, 2/3 and 2 at 300B. So
from scratch is level or better at 2 and better beyond; at 2/3 it was also better, but against a
learning rate too small to decide. "Much less" is not defined in the paper. We use one half: below
2/3, and above the 0.4 of Skywork-MoE itself (1000B tokens from a parent of 5200B), which was
upcycled.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf, isfinite
from types import MappingProxyType
from typing import Literal

from moe.config.model import ModelConfig
from moe.config.tensors import active_parameters
from moe.errors import PlanError

Verdict = Literal["upcycle", "borderline", "scratch"]

_SECONDS_PER_HOUR = 3600
_COPIED = ("layers", "hidden_size", "heads", "kv_heads", "head_size", "vocab_size")


@dataclass(frozen=True, slots=True)
class Terms:
    """The assumptions of a comparison.

    ``communication`` is device time per FLOP of the MoE over that of the dense model: top-2 of the
    study had about 1.7 times the active parameters and took about 2 times the GPU hours a token.
    ``much_less`` is the ratio up to which to upcycle, ``scratch_from`` the ratio from which to
    train from scratch. Attention is counted for sequences of ``sequence_length``; None ignores it,
    as 6 A does. ``dense_trained`` is True if the dense model exists, False if it would be trained
    for this run.
    """

    communication: float = 1.2
    much_less: float = 0.5
    scratch_from: float = 2.0
    sequence_length: int | None = None
    dense_trained: bool = True

    def __post_init__(self) -> None:
        if not (isfinite(self.communication) and self.communication > 0):
            raise PlanError(
                f"communication is {self.communication}; give a number above 0, say 1.2"
            )
        if not 0 < self.much_less < self.scratch_from < inf:
            raise PlanError(
                f"upcycling up to a ratio of {self.much_less}, scratch from {self.scratch_from}; "
                "the first must be above 0 and below the second"
            )
        if self.sequence_length is not None and self.sequence_length < 1:
            raise PlanError(f"sequences of {self.sequence_length} tokens; give at least 1, or none")


@dataclass(frozen=True, slots=True)
class Fleet:
    """Devices to train on, and the FLOP/s that all of them together sustain (not the peak)."""

    flops_per_second: float
    devices: int = 1

    def __post_init__(self) -> None:
        if not (isfinite(self.flops_per_second) and self.flops_per_second > 0):
            raise PlanError(f"{self.flops_per_second} FLOP/s trains nothing; give what is reached")
        if self.devices < 1:
            raise PlanError(f"{self.devices} devices train nothing; give at least 1")

    def hours(self, flops: float) -> float:
        """Return the device hours for a number of FLOPs."""
        return flops / self.flops_per_second / _SECONDS_PER_HOUR * self.devices


@dataclass(frozen=True, slots=True)
class Cost:
    """One training run: FLOPs without communication, device hours with it if a rate is known."""

    active_parameters: int
    tokens: float
    flops: float
    device_hours: float | None


@dataclass(frozen=True, slots=True)
class Advice:
    """A recommendation, its reasons, and what to watch.

    ``ratio`` is C_moe / C_dense, infinite without a dense model. ``break_even_tokens`` are the MoE
    tokens up to which to upcycle, and the MoE tokens from which to train from scratch.
    ``scratch_tokens`` is the number of tokens from scratch for the cost of both runs together.
    """

    verdict: Verdict
    dense: Cost | None
    moe: Cost
    ratio: float
    break_even_tokens: tuple[float, float]
    scratch_tokens: float
    reasons: tuple[str, ...]
    watch: tuple[str, ...]


def advise_budget(
    config_dense: ModelConfig | None,
    config_moe: ModelConfig,
    dense_tokens: float,
    moe_tokens: float,
    terms: Terms | None = None,
    fleet: Fleet | None = None,
) -> Advice:
    """Compare an MoE run of ``moe_tokens`` with a dense checkpoint of ``dense_tokens``.

    A configuration of None, or 0 tokens, means that there is no dense model.
    """
    terms = terms or Terms()
    _check(config_dense, config_moe, dense_tokens, moe_tokens)
    moe = _cost(config_moe, moe_tokens, terms, fleet)
    if config_dense is None or not dense_tokens:
        return _without_dense(moe)
    dense = _cost(config_dense, dense_tokens, terms, fleet)
    ratio = terms.communication * moe.flops / dense.flops
    even = moe_tokens / ratio
    unlike = _unlike(config_dense, config_moe)
    usable = terms.dense_trained and not unlike
    verdict = _verdict(ratio, terms) if usable else "scratch"
    return Advice(
        verdict=verdict,
        dense=dense,
        moe=moe,
        ratio=ratio,
        break_even_tokens=_break_even(even, terms) if usable else (0.0, 0.0),
        scratch_tokens=moe_tokens + even,
        reasons=(*_reasons(verdict, ratio, terms, unlike), _account(dense, moe, even, terms)),
        watch=() if verdict == "scratch" else _WATCH,
    )


def _check(
    config_dense: ModelConfig | None,
    config_moe: ModelConfig,
    dense_tokens: float,
    moe_tokens: float,
) -> None:
    if config_moe.moe is None:
        raise PlanError("the model to train has no experts; give the MoE configuration second")
    if config_dense is not None and config_dense.moe is not None:
        raise PlanError("the dense model has experts; give the dense configuration first")
    if not (isfinite(moe_tokens) and moe_tokens > 0):
        raise PlanError(f"the MoE would train on {moe_tokens} tokens; give a number above 0")
    if not (isfinite(dense_tokens) and dense_tokens >= 0):
        raise PlanError(f"the dense model has seen {dense_tokens} tokens; give 0 or more")
    if config_dense is None and dense_tokens:
        raise PlanError(
            f"a dense model has seen {_count(dense_tokens)} tokens but its configuration is "
            "missing; give its configuration, or 0 tokens"
        )


def _cost(config: ModelConfig, tokens: float, terms: Terms, fleet: Fleet | None) -> Cost:
    active = active_parameters(config)
    columns = config.heads * config.head_size
    attention = 12 * config.layers * columns * (terms.sequence_length or 0)
    flops = tokens * (6 * active + attention)
    weight = terms.communication if config.moe else 1.0
    return Cost(active, tokens, flops, fleet.hours(weight * flops) if fleet else None)


def _break_even(even: float, terms: Terms) -> tuple[float, float]:
    """Return the tokens at both limits, from the number at which the two runs cost the same."""
    return terms.much_less * even, terms.scratch_from * even


def _verdict(ratio: float, terms: Terms) -> Verdict:
    if ratio <= terms.much_less:
        return "upcycle"
    return "scratch" if ratio >= terms.scratch_from else "borderline"


def _unlike(dense: ModelConfig, moe: ModelConfig) -> str:
    """Return the sizes that prevent upcycling the dense model to the MoE; empty if there are
    none.
    """
    found = [
        f"{size} {getattr(dense, size)} against {getattr(moe, size)}"
        for size in _COPIED
        if getattr(dense, size) != getattr(moe, size)
    ]
    return ", ".join(found)


def _without_dense(moe: Cost) -> Advice:
    reason = (
        "There is no dense checkpoint to start from: never train one only to upcycle it "
        "(Skywork-MoE section 3)."
    )
    return Advice(
        verdict="scratch",
        dense=None,
        moe=moe,
        ratio=inf,
        break_even_tokens=(0.0, 0.0),
        scratch_tokens=moe.tokens,
        reasons=(reason,),
        watch=(),
    )


def _reasons(verdict: Verdict, ratio: float, terms: Terms, unlike: str) -> tuple[str, ...]:
    compared = f"The MoE run costs {ratio:.3g} times what the dense checkpoint did"
    if unlike:
        return (f"The dense weights do not fit into the MoE: {unlike}.", f"{compared}.")
    if not terms.dense_trained:
        return (
            f"{compared}, which is yet to be trained: never train a dense model only to upcycle it "
            "(Skywork-MoE section 3).",
        )
    return (f"{compared}: {_RULES[verdict](terms)}", _EVIDENCE[verdict])


_RULES: Mapping[Verdict, Callable[[Terms], str]] = MappingProxyType(
    {
        "upcycle": lambda terms: (
            f"much less, which is up to {terms.much_less:.3g} by our definition. Skywork-MoE "
            "section 3 upcycles there: the run could not learn by itself what the weights know."
        ),
        "borderline": lambda terms: (
            f"between {terms.much_less:.3g} and {terms.scratch_from:.3g}, which Skywork-MoE "
            "section 3 leaves open; compare both to the end at a smaller scale, for early losses "
            "flatter the upcycled run."
        ),
        "scratch": lambda terms: (
            f"{terms.scratch_from:.3g} times or more, where Skywork-MoE section 3 trains from "
            "scratch: experts that begin as copies stay more alike than ones that never were."
        ),
    }
)
_EVIDENCE: Mapping[Verdict, str] = MappingProxyType(
    {
        "upcycle": (
            "The authors upcycled their own MoE at about 0.4: 1000B tokens shown (figure 4), from "
            "a parent of 5200B. Their study begins at 2/3, so below that nothing is measured."
        ),
        "borderline": (
            "Measured at 2/3 (figure 1): from scratch 2.264 nats, from the full dense checkpoint "
            "2.287 at a constant small learning rate, from one of a third its tokens 2.259."
        ),
        "scratch": (
            "Measured at 2 (figure 1): from scratch 2.200 nats, upcycled 2.232 at the better of "
            "two learning rates; in a run of a third the length, 2.264 against 2.259."
        ),
    }
)
_WATCH = (
    "The learning rate: raise it again and let it fall. At the dense run's last, constant 3e-4, "
    "upcycling ended 0.018 nats behind a peak of 1.2e-3 after 300B tokens (figure 1).",
    "Expert similarity: upcycled experts must grow apart. After 100B tokens the run that ended "
    "worst stood at 0.39, the other upcycled ones at 0.20 and 0.11 (figure 1).",
    "What did not pay: training copies on domains first (0.005 nats after 90B tokens), a smaller "
    "learning rate for experts (section C).",
)


def _account(dense: Cost, moe: Cost, even: float, terms: Terms) -> str:
    """Return the sentences about sunk and cumulative cost."""
    whole = f"{_count(moe.tokens + even)} MoE tokens from scratch instead of {_count(moe.tokens)}"
    if terms.dense_trained:
        return (
            f"The dense model's {dense.flops:.3g} FLOPs are sunk, paid either way; they only weigh "
            f"what the checkpoint knows. Both runs together would have bought {whole}."
        )
    return (
        f"Nothing is sunk: the dense model's {dense.flops:.3g} FLOPs would be paid as well, and "
        f"both runs together buy {whole}."
    )


def _count(tokens: float) -> str:
    """Return a number of tokens in billions, as papers give it."""
    billions = tokens / 1e9
    return f"{billions:,.0f}B" if billions >= 1000 else f"{billions:.3g}B"
