"""The options of an upcycling, and the architecture that results."""

from dataclasses import asdict, dataclass, field, replace
from math import inf
from typing import Any, get_args

from moe.config.families import FAMILIES, MOE_FAMILIES, write_config
from moe.config.model import FirstSegment, ModelConfig, MoeConfig, Score
from moe.errors import ConfigError
from moe.surgery.copies import Copy
from moe.surgery.gates import check_gates
from moe.surgery.method import Method, RouterKind

ROUTER_STD = 0.02
_PREFERRED = ("mixtral", "skywork_moe", "raymoe")


@dataclass(frozen=True, slots=True)
class UpcycleOptions:
    """``experts`` is the number of copies, or of routed parts; ``top_k`` is the number that a token
    takes.

    ``family`` None chooses the first of mixtral, skywork_moe and raymoe that can hold the options.
    ``router`` is the initial value of gates: ``normal`` with deviation ``router_std`` (0.02);
    ``zero``, for which all experts tie, for models in which a token takes all experts;
    ``centroid``, the mean gate row of an expert's columns, scaled to the length of a normal row, so
    that tokens are routed to columns that are active on them. The first ``first_dense`` layers stay
    dense: their load balances late (DeepSeekMoE section 5.1.2). With ``segment_tokens``, experts
    are merged for segments of that length (``MoeConfig``).
    """

    experts: int
    top_k: int
    gate_norm: float | None = None
    router_std: float | None = None
    seed: int = 0
    family: str | None = None
    probe_tokens: int = 64
    method: Method = field(default_factory=Copy)
    router: RouterKind = "normal"
    first_dense: int = 0
    renormalise: bool = True
    score: Score = "softmax"
    balance_bias: bool = False
    segment_tokens: int | None = None
    first_segment: FirstSegment = "even"

    def __post_init__(self) -> None:
        if not 0 <= self.deviation < inf or self.probe_tokens < 1:
            raise ConfigError(
                f"router_std is {self.router_std} and probe_tokens {self.probe_tokens}; "
                "the first must be finite and not negative, the second at least 1"
            )
        if self.first_dense < 0:
            raise ConfigError(f"first_dense is {self.first_dense}; it must not be negative")
        self._check_router()

    @property
    def deviation(self) -> float:
        """Standard deviation of the rows of new routers."""
        return ROUTER_STD if self.router_std is None else self.router_std

    def record(self, config: ModelConfig) -> dict[str, Any]:
        """Return the options in the form of a receipt, with their resolved values."""
        table: dict[str, Any] = asdict(self) | {
            "family": config.family,
            "router_std": self.deviation,
        }
        asked: dict[str, Any] = table.pop("method")
        return table | asked | {"architecture": asdict(config.moe) if config.moe else None}

    def _check_router(self) -> None:
        name, allowed = self.method.name, self.method.routers
        if self.router not in get_args(RouterKind):
            raise ConfigError(
                f"no router {self.router!r}; choose {' or '.join(get_args(RouterKind))}"
            )
        if self.router not in allowed:
            reason = (
                "all experts would get the same row"
                if self.router == "centroid"
                else ("all experts would tie, and a token would not take whole groups")
            )
            raise ConfigError(
                f"the method {name} with router {self.router}: {reason}; "
                f"choose {' or '.join(allowed)}"
            )
        if self.router == "zero" and self.router_std is not None:
            raise ConfigError("router_std has no effect on a router of zeros; remove it")


def upcycled_config(dense: ModelConfig, options: UpcycleOptions) -> ModelConfig:
    """Return the architecture after upcycling; ConfigError if no family can hold it."""
    if dense.moe is not None:
        raise ConfigError(
            f"the source is a {dense.family} model with experts already; give a dense one"
        )
    if dense.mlp_bias:
        raise ConfigError(
            "the source has feed-forward biases and experts hold none; give a model without them"
        )
    if options.family is not None and options.family not in MOE_FAMILIES:
        raise ConfigError(
            f"cannot write family {options.family!r}; choose {' or '.join(MOE_FAMILIES)}"
        )
    moe = options.method.shape(_whole_experts(dense, options))
    if moe.merged and moe.expert_size != dense.ffn_size:
        raise ConfigError(
            f"the method {options.method.name} makes experts of {moe.expert_size} columns, but "
            f"merged experts are as wide as the feed-forward, {dense.ffn_size}; choose copy, noise "
            "or drop, or remove --segment-tokens"
        )
    check_gates(moe, options.router == "zero" or options.deviation == 0)
    wanted = (
        (options.family,)
        if options.family
        else tuple(name for name in _PREFERRED if name in FAMILIES)
    )
    *others, last = (_as_family(dense, moe, name, options.method) for name in wanted)
    for config in others:
        if _writable(config):
            return config
    write_config(last, "float32")
    return last


def _whole_experts(dense: ModelConfig, options: UpcycleOptions) -> MoeConfig:
    """Return the MoE configuration with experts as wide as the dense feed-forward."""
    return MoeConfig(
        experts=options.experts,
        top_k=options.top_k,
        expert_size=dense.ffn_size,
        gate_norm=options.gate_norm,
        renormalise=options.renormalise,
        score=options.score,
        balance_bias=options.balance_bias,
        segment_tokens=options.segment_tokens,
        first_segment=options.first_segment,
        dense_layers=tuple(range(options.first_dense)),
    )


def _as_family(dense: ModelConfig, moe: MoeConfig, family: str, method: Method) -> ModelConfig:
    """Return the model in a family; a family with a scale of the routed sum also holds the gain.

    As a scale the gain is exact in any dtype; multiplied into down projections it may be rounded.
    """
    gain = method.gain(moe)
    if gain != 1.0 and "scale" in FAMILIES[family].holds:
        moe = replace(moe, scale=gain)
    return dense.with_moe(moe, family)


def _writable(config: ModelConfig) -> bool:
    try:
        write_config(config, "float32")
    except ConfigError:
        return False
    return True
