"""What the options of a mixture of experts exclude; ConfigError says which."""

from typing import TYPE_CHECKING

from moe.errors import ConfigError

if TYPE_CHECKING:
    from moe.config.model import MoeConfig

_GATE_OPTIONS = (
    "gate_norm",
    "renormalise",
    "score",
    "softmax_after",
    "balance_bias",
    "groups",
    "scale",
)


def check_groups(moe: "MoeConfig") -> None:
    """Raise if groups are not of one size, or a token cannot reach its top-k experts."""
    if not 1 <= moe.top_groups <= moe.groups or moe.experts % moe.groups:
        raise ConfigError(
            f"{moe.experts} experts in {moe.groups} groups of which a token reaches "
            f"{moe.top_groups}; groups must be of one size, and top_groups at most groups"
        )
    if moe.group_best < 1 or (moe.group_best != 2 and moe.groups == 1):
        raise ConfigError(
            f"group_best is {moe.group_best} with {moe.groups} groups of experts; it must be "
            "at least 1, and has no effect on a single group"
        )
    reached = moe.experts // moe.groups * moe.top_groups
    if moe.top_k > reached:
        raise ConfigError(
            f"top-k is {moe.top_k} but {moe.top_groups} of {moe.groups} groups hold only "
            f"{reached} experts; raise top_groups or lower top-k"
        )


def check_hashed(moe: "MoeConfig") -> None:
    """Raise if options of a gate are set: a hash has no gate."""
    key = _changed(moe, _GATE_OPTIONS)
    if key is not None:
        raise ConfigError(
            f"tokens are hashed to experts, on which {key} = {getattr(moe, key)!r} has "
            "no effect; remove it"
        )
    if moe.top_k != 1:
        raise ConfigError(f"a hash sends each token to 1 expert; top-k is {moe.top_k}")


def check_segments(moe: "MoeConfig") -> None:
    """Raise if options are set that merged experts do not have."""
    if moe.segment_tokens is None:
        raise ConfigError(
            f"first_segment = {moe.first_segment!r} has no effect on tokens that are routed one by "
            "one; remove it, or give segment_tokens"
        )
    if moe.segment_tokens < 1:
        raise ConfigError(f"segment_tokens is {moe.segment_tokens}; it must be at least 1")
    key = _changed(moe, (*_GATE_OPTIONS, "hashed", "shared_size"))
    if key is not None:
        raise ConfigError(
            f"experts are merged for segments, which takes no {key} = {getattr(moe, key)!r}; "
            "remove it, or remove segment_tokens"
        )
    if moe.top_k != 1:
        raise ConfigError(
            f"a segment passes the 1 feed-forward that its experts are merged into; top-k is "
            f"{moe.top_k}, give 1"
        )


def _changed(moe: "MoeConfig", keys: tuple[str, ...]) -> str | None:
    """Return the first of some options that is not at its default."""
    fields = type(moe).__dataclass_fields__
    return next((key for key in keys if getattr(moe, key) != fields[key].default), None)
