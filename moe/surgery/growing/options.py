"""The options of an expansion, and the architecture that results.

Copies of an expert have the router row of the expert, so their logits are equal. If a token still
takes k experts, its places go to copies of its best experts, and other experts that it had are
lost: for k > 1 the function moves. It does not move if a token takes r k experts, with r copies of
each. Then, for a score p and a routing weight w of the expert before:

- softmax over all experts: each copy has p / r, the copies together p;
- renormalised, or a softmax over the chosen experts: each copy has w / r, the copies together w;
- sigmoid, not renormalised: each copy has p, the copies together r p; the gain is 1 / r;
- gate normalisation: the unbiased variance S / (N - 1) of N logits becomes r S / (r N - 1), so
  lambda is multiplied by the square root of r (N - 1) / (r N - 1);
- a balance bias is added to scores before the choice: to p / r a bias of 1 / r of what it was;
- groups of experts: a group is scored by the sum of its r m best instead of its m best.
"""

from dataclasses import asdict, dataclass, replace
from math import sqrt
from typing import Any, Literal, get_args

from moe.config.families import FAMILIES, write_config
from moe.config.model import ModelConfig, MoeConfig
from moe.errors import ConfigError

Basis = Literal["alike", "load", "gradient"]
Keep = Literal["top-k", "function"]

DEVIATION = 0.05


@dataclass(frozen=True, slots=True)
class ExpandOptions:
    """``experts`` is the number of experts afterwards.

    ``by`` chooses what is copied: all experts ``alike``, or experts by the ``load`` or the squared
    ``gradient`` that they have on calibration tokens. ``keep`` the ``top-k`` of the model, or its
    ``function``, which needs a larger top-k. With ``apart``, the copies of an expert take different
    tokens (``moe.surgery.growing.apart``). ``deviation`` is that of the noise of the copies,
    relative to that of each tensor; None is 0.05, and none where copies take different tokens.
    """

    experts: int
    keep: Keep = "top-k"
    by: Basis = "alike"
    apart: bool = False
    deviation: float | None = None
    seed: int = 0
    probe_tokens: int = 64

    def __post_init__(self) -> None:
        for name, kind in (("by", Basis), ("keep", Keep)):
            if getattr(self, name) not in get_args(kind):
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}; choose {' or '.join(get_args(kind))}"
                )
        if not 0 <= (self.deviation or 0.0) <= 10:
            raise ConfigError(
                f"deviation is {self.deviation}; give one from 0 to 10, as a multiple of the "
                "deviation of each tensor"
            )
        if self.by != "alike" and (self.apart or self.keep == "function"):
            asked = "apart" if self.apart else "keep function"
            raise ConfigError(
                f"{asked} needs equally many copies of every expert, and by {self.by} copies some "
                "more often than others; choose --by alike, or leave it out"
            )
        if self.apart and self.keep == "function":
            raise ConfigError(
                "with keep function a token takes all copies of its experts, and apart it would "
                "take one of each; choose one of the two"
            )


@dataclass(frozen=True, slots=True)
class Growth:
    """The architectures before and after, and the ``gain`` of the down projections."""

    before: ModelConfig
    after: ModelConfig
    gain: float
    options: ExpandOptions

    @property
    def copies(self) -> int | None:
        """Copies of each expert; None if they differ between experts."""
        alike = self.options.by == "alike"
        return self.after.experts // self.before.experts if alike else None

    @property
    def bias_factor(self) -> float:
        """What balance biases are multiplied by: as the scores to which they are added."""
        moe = self.before.moe
        assert moe is not None
        if moe.score != "softmax" or self.copies is None or self.options.apart:
            return 1.0
        return 1 / self.copies

    @property
    def noise(self) -> float:
        """Deviation of the noise of copies, relative to that of each tensor."""
        if self.options.deviation is not None:
            return self.options.deviation
        return 0.0 if self.parted else DEVIATION

    @property
    def parted(self) -> bool:
        """Whether the copies of an expert take different tokens."""
        return self.options.apart or self._hashed

    @property
    def exact(self) -> bool:
        """Whether the new model computes the same function."""
        return self.options.keep == "function" or (self._hashed and self.noise == 0)

    def record(self) -> dict[str, Any]:
        """Return the options in the form of a receipt."""
        table = asdict(self.options) | {"deviation": self.noise}
        return table | {"architecture": asdict(self.after.moe) if self.after.moe else None}

    @property
    def _hashed(self) -> bool:
        return self.before.moe is not None and self.before.moe.hashed


def growth(before: ModelConfig, options: ExpandOptions) -> Growth:
    """Return the growth of a model; ConfigError if its format or router does not allow it."""
    moe = before.moe
    if moe is None:
        raise ConfigError(
            f"the source is a dense {before.family} model, expand copies experts; choose another "
            "method, such as copy"
        )
    if moe.merged:
        raise ConfigError(
            "the source merges its experts for segments of tokens; expand grows models that send "
            "tokens to experts: upcycle the dense model to more experts instead"
        )
    _check_count(moe, options)
    if moe.hashed:
        _check_hashed(options)
    if options.apart:
        _check_apart(moe)
    grown, gain = _grown(moe, options)
    if gain != 1.0 and "scale" in FAMILIES[before.family].holds:
        grown, gain = replace(grown, scale=grown.scale * gain), 1.0
    after = replace(before, moe=grown)
    write_config(after, "float32")
    found = Growth(before, after, gain, options)
    if found.noise == 0 and not found.parted:
        raise ConfigError(
            "without noise the copies of an expert would have the same gradients and stay equal "
            "for ever; give --deviation above 0, which --keep function cancels exactly, or --apart"
        )
    return found


def _grown(moe: MoeConfig, options: ExpandOptions) -> tuple[MoeConfig, float]:
    """Return the MoE configuration, and the factor of the routed sum."""
    grown = replace(moe, experts=options.experts)
    if options.by != "alike" or moe.hashed:
        return grown, 1.0
    copies = options.experts // moe.experts
    if moe.gate_norm is not None and moe.experts > 1:
        ratio = copies * (moe.experts - 1) / (options.experts - 1)
        grown = replace(grown, gate_norm=moe.gate_norm * sqrt(ratio))
    if moe.groups > 1:
        best = min(moe.group_best, moe.experts // moe.groups)
        grown = replace(grown, group_best=copies * best)
    raw = not moe.sums_to_one
    if options.keep == "function":
        gain = 1 / copies if raw and moe.score == "sigmoid" else 1.0
        return replace(grown, top_k=copies * moe.top_k), gain
    lone = raw and moe.top_k == 1 and moe.score == "softmax" and not options.apart
    return grown, float(copies) if lone else 1.0


def _check_count(moe: MoeConfig, options: ExpandOptions) -> None:
    experts = options.experts
    if experts <= moe.experts:
        raise ConfigError(
            f"the source has {moe.experts} experts, {experts} are asked for; give more, such as "
            f"--experts {2 * moe.experts}"
        )
    if options.by == "alike" and experts % moe.experts:
        near = moe.experts * (experts // moe.experts + 1)
        raise ConfigError(
            f"{experts} experts are not equally many copies of {moe.experts}; give a multiple, "
            f"such as --experts {near}, or choose by load or by gradient what is copied"
        )
    if experts % moe.groups:
        raise ConfigError(
            f"{experts} experts do not fill the {moe.groups} groups of the source evenly; give a "
            "multiple"
        )


def _check_hashed(options: ExpandOptions) -> None:
    """A hash of 2 N values sends every token to a copy of the expert it had: nothing to choose."""
    if options.by != "alike" or options.apart or options.keep == "function":
        raise ConfigError(
            "the source hashes tokens to experts: its copies take different tokens and keep the "
            "function as it is; remove --by, --keep and --apart"
        )


def _check_apart(moe: MoeConfig) -> None:
    if moe.gate_norm is not None or moe.score != "softmax":
        what = "sigmoid scores" if moe.score != "softmax" else "gate normalisation"
        raise ConfigError(
            f"apart adds the same number to the logits of a token's experts, which {what} "
            "would not ignore; leave --apart out, or choose --keep function"
        )
