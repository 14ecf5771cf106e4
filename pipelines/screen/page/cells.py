"""Cells of the holdings picture: a layer, the embedding or the head on one rank.

All cells of layers have one size, so the marks of a set of experts are defined once, at the head of
the picture, and referenced in each cell.
"""

from collections.abc import Collection
from dataclasses import dataclass
from math import ceil, log

from moe.config.model import ModelConfig
from moe.config.share import Share
from pipelines.screen.page.phrases import numbers, span
from pipelines.screen.page.svg import Box, element, hint, line, rect, words

_WIDEST_EDGE = 1.5
_SMALLEST_NUMBERED = 13.0


@dataclass(frozen=True, slots=True)
class Marks:
    """The sets of experts in cells of one size, and the names of their marks."""

    config: ModelConfig
    width: float
    height: float
    names: dict[frozenset[int], str]

    def definitions(self) -> str:
        """Return the marks of every set of experts, and the pattern of recomputed layers."""
        drawn = [element("g", *self._drawn(held), id=name) for held, name in self.names.items()]
        size = {"width": 5, "height": 5, "patternUnits": "userSpaceOnUse"}
        stroke = line(0, 0, 0, 5, class_="hatching")
        turned = {"patternTransform": "rotate(45)"}
        return element("defs", *drawn, element("pattern", stroke, id="hatch", **size, **turned))

    def _drawn(self, held: frozenset[int]) -> list[str]:
        """Return marks of all experts, dark for held experts; with numbers if there is space."""
        experts = self.config.experts
        edge = min(_WIDEST_EDGE, self.width / 8)
        width, height = self.width - 2 * edge, self.height - 2 * edge
        across = _across(experts, width / height)
        wide, high = width / across, height / ceil(experts / across)
        gap = 0.12 * min(wide, high)
        inner, tall = wide - 2 * gap, high - 2 * gap
        numbered = min(wide / len(str(experts)) * 1.6, high) >= _SMALLEST_NUMBERED
        paths = {"free": "", "held": ""}
        written = []
        for expert in range(experts):
            row, column = divmod(expert, across)
            left, top = edge + column * wide + gap, edge + row * high + gap
            kind = "held" if expert in held else "free"
            paths[kind] += f"M{left:.2f} {top:.2f}h{inner:.2f}v{tall:.2f}h{-inner:.2f}z"
            if numbered:
                middle, baseline = left + inner / 2, top + tall / 2 + 3.5
                named = f"middle number on-{kind}"
                written.append(words(middle, baseline, str(expert), class_=named))
        return [element("path", d=d, class_=kind) for kind, d in paths.items() if d] + written


def marks(config: ModelConfig, shares: list[Share], width: float, height: float) -> Marks:
    """Return the marks for the cells of these shares, which all have one size."""
    sets = (
        frozenset(_experts(config, share, layer))
        for share in shares
        for layer in share.layer_numbers
        if config.has_experts(layer)
    )
    names = {held: f"experts-{number}" for number, held in enumerate(dict.fromkeys(sets))}
    return Marks(config, width, height, names)


def _experts(config: ModelConfig, share: Share, layer: int) -> Collection[int]:
    """Return the experts of which a share holds something: of merged ones its columns of each."""
    return share.experts_of(layer) if config.placed_experts else range(config.experts)


def layer_cell(
    known: Marks, place: tuple[float, float], share: Share, layer: int, again: bool
) -> str:
    """Return the cell of one layer of a rank; ``place`` is its upper left corner, ``again`` marks a
    recomputed layer.
    """
    kind = "moe" if known.config.has_experts(layer) else "dense"
    experts = _experts(known.config, share, layer)
    box = (*place, known.width, known.height)
    parts = [rect(*box, class_=kind, rx=1.5)]
    hover = [f"layer {layer}: {'experts' if kind == 'moe' else 'dense'}"]
    if again:
        hover.append("recomputed in the backward pass")
    if kind == "moe":
        name = known.names[frozenset(experts)]
        parts.append(element("use", href=f"#{name}", x=place[0], y=place[1]))
        hover[0] += f" {numbers(sorted(experts))} of {known.config.experts}"
        if not known.config.placed_experts:
            hover.append(f"columns {share.ffn[0]} to {share.ffn[1] - 1} of each")
        if any(number == layer for number, _ in share.layer_experts):
            parts.append(rect(*box, class_="placed", rx=1.5))
            hover.append(f"in other layers the rank holds {numbers(share.experts)}")
    if again:
        parts.append(rect(*box, class_="again", rx=1.5))
    return element(
        "g",
        hint("\n".join(hover)),
        *parts,
        class_="cell",
        data_layer=layer,
        data_kind=kind,
        data_again=int(again),
        data_experts=" ".join(map(str, sorted(experts))) if kind == "moe" else None,
    )


def end_cell(kind: str, config: ModelConfig, box: Box, share: Share) -> str:
    """Return the cell of the embedding or the head of a rank, with its rows of the vocabulary."""
    left, top, width, height = box
    rows = vocabulary(config, share)
    middle = words(left + width / 2, top + height / 2 + 4, rows, class_="middle")
    hover = hint(f"{kind}: rows {rows} of {config.vocab_size}")
    return element(
        "g",
        hover,
        rect(*box, class_="end", rx=2),
        middle,
        class_="cell",
        data_kind=kind,
        data_rows=rows,
    )


def vocabulary(config: ModelConfig, share: Share) -> str:
    """Return the rows of the vocabulary that a rank holds, as text."""
    return span(share.vocabulary or (0, config.vocab_size))


def _across(count: int, shape: float) -> int:
    """Return how many of ``count`` marks to draw per row so that each is about square.

    If possible, all rows are full. ``shape`` is width over height of the area.
    """

    def slant(number: int) -> float:
        return abs(log(shape / number * ceil(count / number)))

    full = [number for number in range(1, count + 1) if count % number == 0]
    best = min(full, key=slant)
    return best if slant(best) < 1 else min(range(1, count + 1), key=slant)
