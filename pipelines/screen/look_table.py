"""A look at the experts of a model as a table: a row for each layer."""

from rich.table import Table

from moe.surgery.look.look import LayerLook, Traffic
from pipelines.models.inspect import Inspection, similar_pairs
from pipelines.screen.words import numbers

_WEIGHTS = ("layer", "similarity", "closest pair")
_TRAFFIC = (
    "layer",
    "similarity",
    "of outputs",
    "busiest",
    "dead",
    "1st/2nd",
    "2nd/3rd",
    "closest pair",
)


def look_table(title: str, found: Inspection) -> Table:
    """Return the figures of each layer that fit a terminal; a file has all of them."""
    table = Table(title=title, caption=_caption(found), caption_justify="left")
    for heading in _WEIGHTS if found.source is None else _TRAFFIC:
        table.add_column(heading, justify="left" if heading == _WEIGHTS[-1] else "right")
    for layer in found.layers:
        traffic = () if layer.traffic is None else _traffic(layer, layer.traffic)
        table.add_row(str(layer.layer), f"{layer.similarity:.4f}", *traffic, _closest(layer))
    return table


def _traffic(layer: LayerLook, traffic: Traffic) -> tuple[str, ...]:
    return (
        f"{layer.output_similarity:.4f}",
        f"{traffic.imbalance:.2f}x",
        numbers(traffic.dead) or "-",
        _ratio(traffic.sharpness),
        _ratio(traffic.second_sharpness),
    )


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _closest(layer: LayerLook) -> str:
    return "".join(f"{i}-{j} {value:.3f}" for i, j, value in similar_pairs(layer)[:1])


def _caption(found: Inspection) -> str:
    if found.source is None:
        return "similarity: mean cosine of the weights of all pairs of experts"
    return (
        f"on {found.tokens} tokens of {found.source}. similarity: mean cosine of the weights of "
        "all pairs of experts; of outputs: mean linear CKA, also of the closest pair; busiest: "
        "load over the mean; 1st/2nd, 2nd/3rd: mean ratio of a token's largest scores"
    )
