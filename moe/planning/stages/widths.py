"""How a gang cuts the width of its stage: heads, feed-forward columns, experts, vocabulary rows.

Each of these is split among any number of ranks, in proportion to their weights; every rank gets at
least one. SmolLM2-135M with 8 experts, over two ranks of which the first is twice as fast:

    3 key-value heads        2 + 1               9 query heads go with them: 6 + 3
    1,536 columns            1,024 + 512
    8 experts                5 + 3
    49,152 vocabulary rows   24,576 + 24,576     even: embedding and head are one matrix

Experts that are merged for segments are cut as a feed-forward is: a rank has its columns of all of
them, and merges these alone.

Query heads stay with the key-value head that they read, so a rank has complete groups of query
heads. Cutting through a group would give 5 + 4 in place of 6 + 3, but two ranks would then hold,
cache and train the same keys and values, and sum their gradients. A gang with more ranks than the
model has key-value heads would do that for every head, so it is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from moe.config.model import ModelConfig
from moe.config.share import Share, shared_span, whole
from moe.errors import PlanError
from moe.planning.stages.split import groups, spans, split

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Width:
    """One rank's slice of every layer of its stage."""

    kv_heads: Span
    ffn: Span
    experts: tuple[int, ...]
    vocabulary: Span | None


def cut_width(config: ModelConfig, weights: Sequence[float]) -> tuple[Width, ...]:
    """Return the slice of each rank of a gang, in proportion to its weight.

    A tied vocabulary is cut evenly, because the first and the last stage must cut it equally and
    their gangs may have different weights.
    """
    gang = len(weights)
    heads = spans(split(config.kv_heads, gang, weights))
    columns = _columns(config, weights)
    experts: Sequence[tuple[int, ...]] = [()] * gang
    if config.placed_experts:
        experts = groups(split(config.placed_experts, gang, weights))
    rows: Sequence[Span | None] = [None]
    if gang > 1:
        by = None if config.tie_embeddings else weights
        rows = spans(split(config.vocab_size, gang, by))
    slices = zip(heads, columns, experts, rows, strict=True)
    return tuple(Width(*each) for each in slices)


def width_share(config: ModelConfig, width: Width) -> Share:
    """Return the share of a rank that holds its slice of every layer, embedding and head."""
    full = whole(config)
    return Share(
        layers=full.layers,
        embedding=True,
        head=True,
        kv_heads=width.kv_heads,
        ffn=width.ffn,
        experts=width.experts,
        vocabulary=width.vocabulary,
    )


def check_width(config: ModelConfig, gang: int) -> None:
    """Raise PlanError if a gang has more ranks than the model has of anything that it cuts."""
    for what, count in _limits(config):
        if gang > count:
            raise PlanError(
                f"plan needs a gang of {gang} ranks but the model has {count} {what}, and a rank "
                f"holds at least one; lower plan.gang to {count} or less and raise plan.stages"
            )


def widest(config: ModelConfig) -> int:
    """Return the most ranks that a gang of this model can have."""
    return min(count for _, count in _limits(config))


def explain_heads(config: ModelConfig, kv_heads: Sequence[int]) -> str | None:
    """Return why the ranks' numbers of query heads differ by more than one; None if they do not."""
    group = config.heads_per_kv
    heads = [count * group for count in kv_heads]
    even = split(config.heads, len(heads))
    if max(heads) - min(heads) <= 1:
        return None
    return (
        f"{config.heads} query heads go over {len(heads)} ranks as {_listed(heads)}, not "
        f"{_listed(even)}: each {group} read one key-value head and stay with it, so that keys and "
        "values are held and cached once"
    )


def _listed(sizes: Sequence[int]) -> str:
    return f"[{', '.join(map(str, sizes))}]"


def _limits(config: ModelConfig) -> list[tuple[str, int]]:
    limits = [("key-value heads", config.kv_heads), ("feed-forward columns", config.ffn_size)]
    if config.placed_experts:
        limits.append(("experts", config.placed_experts))
    if config.shared_size:
        limits.append(("columns of the shared expert", config.shared_size))
    limits.append(("rows of the vocabulary", config.vocab_size))
    return limits


def _columns(config: ModelConfig, weights: Sequence[float]) -> tuple[Span, ...]:
    """Return the feed-forward columns of each rank; each rank also gets some of the shared expert.

    The shared expert is cut in the same proportion as the feed-forward. If that leaves a rank none
    of its columns, the shared expert is cut by weight instead, and the feed-forward at the first
    column that goes with each of those cuts.
    """
    columns = spans(split(config.ffn_size, len(weights), weights))
    cut = [shared_span(config, span) for span in columns]
    if not config.shared_size or all(start < stop for start, stop in cut):
        return columns
    edges = accumulate(split(config.shared_size, len(weights), weights), initial=0)
    return tuple(pairwise(-(-edge * config.ffn_size // config.shared_size) for edge in edges))
