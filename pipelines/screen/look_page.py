"""The experts of a model as one HTML page: heat maps of load and of similarity, layer by layer.

The page is one file that fetches nothing and needs no script. Its colours are those of cividis,
which people who see no red or no green read as others do, and every cell has its number: in the
cell if it fits, and as its hover text. On a narrow screen the small maps stand below each other,
and a map of many experts scrolls by itself.
"""

from collections.abc import Iterator
from html import escape
from pathlib import Path

from moe.errors import ConfigError
from moe.surgery.look.look import LayerLook, Matrix
from pipelines.models.inspect import Inspection
from pipelines.screen.page.document import document, write_document
from pipelines.screen.page.heat import Sides, heat_map, scale_bar
from pipelines.screen.page.svg import element
from pipelines.screen.words import count, numbers


def write_page(path: Path, found: Inspection) -> None:
    """Write the page."""
    write_document(path, draw_page(found), ConfigError)


def draw_page(found: Inspection) -> str:
    """Return the page as HTML."""
    return document(
        f"Experts of {found.model}",
        ["style.css", "heat.css"],
        [
            f"<p>{escape(_about(found))}</p>",
            *_load(found),
            *_alike(
                "Similarity of weights",
                "Cosine of the weights of two experts: 1 for equal ones, as after copying; near 0 "
                "for experts trained from scratch.",
                [(layer, layer.cosine) for layer in found.layers],
            ),
            *_of_text(found),
        ],
    )


def _about(found: Inspection) -> str:
    config = found.config
    assert config.moe is not None
    shape = (
        f"{count(len(found.layers), 'layer')} of {config.experts} experts, "
        f"{config.moe.top_k} for each token"
    )
    on = "" if found.source is None else f"; {found.tokens:,} tokens of {found.source}"
    return f"{shape}{on}. Rows and columns are numbers of experts, from 0."


def _load(found: Inspection) -> Iterator[str]:
    """Yield one map of all layers: the load of each expert over the mean load."""
    loads = [(layer, layer.traffic.load) for layer in found.layers if layer.traffic is not None]
    if not loads:
        return
    experts = found.config.experts
    dead = [
        f"layer {layer.layer}: {numbers(layer.traffic.dead)}"
        for layer in found.layers
        if layer.traffic is not None and layer.traffic.dead
    ]
    yield element("h2", "Load")
    told = f" No token uses: {'; '.join(dead)}." if dead else " Every expert is used."
    yield element(
        "p", escape(f"Tokens of an expert over the mean of its layer; 1 is balanced.{told}")
    )
    values = tuple(tuple(share * experts for share in load) for _, load in loads)
    most = max(2.0, max(map(max, values)))
    names = [str(layer.layer) for layer, _ in loads]
    yield scale_bar(0.0, most)
    yield heat_map(values, names, (0.0, most), "Load of each expert by layer", Sides("layer"))


def _of_text(found: Inspection) -> Iterator[str]:
    with_text = [layer for layer in found.layers if layer.traffic is not None]
    if not with_text:
        return
    yield from _alike(
        "Similarity of outputs",
        "Linear CKA of the outputs of two experts on the same tokens: 1 for outputs that are "
        "equal up to rotation and scale.",
        [(layer, layer.traffic.cka) for layer in with_text if layer.traffic is not None],
    )
    together = [(layer, layer.traffic.together) for layer in with_text if layer.traffic is not None]
    most = max(max(max(row) for row in matrix) for _, matrix in together)
    yield from _alike(
        "Experts that serve together",
        "Share of tokens that use both experts; on the diagonal, that use this one.",
        together,
        (0.0, most),
    )


def _alike(
    heading: str,
    about: str,
    maps: list[tuple[LayerLook, Matrix]],
    span: tuple[float, float] | None = None,
) -> Iterator[str]:
    """Yield a small map for each layer, all in one scale; its default is from the least to 1."""
    span = span or (min(min(map(min, matrix)) for _, matrix in maps), 1.0)
    yield element("h2", escape(heading))
    yield element("p", escape(about))
    yield scale_bar(*span)
    pictures = (
        element(
            "figure",
            element("figcaption", f"layer {layer.layer}"),
            heat_map(matrix, _names(matrix), span, f"{heading}, layer {layer.layer}"),
        )
        for layer, matrix in maps
    )
    yield element("div", *pictures, class_="maps")


def _names(matrix: Matrix) -> list[str]:
    return [str(number) for number in range(len(matrix))]
