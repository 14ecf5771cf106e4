"""The part of a model that one rank holds."""

from dataclasses import dataclass
from itertools import chain

from moe.config.model import ModelConfig


@dataclass(frozen=True, slots=True)
class Share:
    """One rank's part: one or more spans of layers, and a slice of each of them.

    Spans are half-open ``(start, stop)``. ``layers`` is the first span, ``more`` are the others, in
    the order of the model; other stages hold the layers between spans. ``kv_heads`` counts
    key-value heads; their query heads go with them. ``ffn`` counts columns of dense feed-forwards;
    the shared expert is cut in the same proportion, and merged experts by the same columns.
    ``experts`` are the numbers of complete experts; ``layer_experts`` has (layer, experts) for
    layers that differ. ``vocabulary`` is the range of rows of embedding and head; None: all rows.
    ``leader`` marks the rank of a gang that writes the tensors that every member holds in full.
    """

    layers: tuple[int, int]
    embedding: bool
    head: bool
    kv_heads: tuple[int, int]
    ffn: tuple[int, int]
    experts: tuple[int, ...]
    leader: bool = True
    vocabulary: tuple[int, int] | None = None
    layer_experts: tuple[tuple[int, tuple[int, ...]], ...] = ()
    more: tuple[tuple[int, int], ...] = ()

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """All spans of layers, in the order of the model."""
        return (self.layers, *self.more)

    @property
    def layer_numbers(self) -> tuple[int, ...]:
        """Numbers of the held layers, in the order of the model."""
        return tuple(chain.from_iterable(range(*span) for span in self.spans))

    def holds(self, layer: int) -> bool:
        """Return whether the share has a part of a layer."""
        start, stop = self.layers
        return start <= layer < stop or any(low <= layer < high for low, high in self.more)

    def experts_of(self, layer: int) -> tuple[int, ...]:
        """Return the held experts of one layer."""
        own = (experts for number, experts in self.layer_experts if number == layer)
        return next(own, self.experts)

    @property
    def sizes(self) -> tuple[object, ...]:
        """Sizes of the held slices, for any position of the slices; shares of equal sizes have
        equal costs.
        """
        spans = (self.kv_heads, self.ffn, self.vocabulary)
        held = tuple(span and span[1] - span[0] for span in spans)
        by_layer = tuple((layer, len(experts)) for layer, experts in self.layer_experts)
        return *held, len(self.experts), by_layer


def shared_span(config: ModelConfig, ffn: tuple[int, int]) -> tuple[int, int]:
    """Return the columns of the shared expert that go with a span of feed-forward columns."""
    start, stop = ffn
    size = config.shared_size
    return start * size // config.ffn_size, stop * size // config.ffn_size


def whole(config: ModelConfig) -> Share:
    """Return the share of a rank that holds everything."""
    return Share(
        layers=(0, config.layers),
        embedding=True,
        head=True,
        kv_heads=(0, config.kv_heads),
        ffn=(0, config.ffn_size),
        experts=tuple(range(config.placed_experts)),
    )
