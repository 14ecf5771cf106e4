"""The experts of a run over time: drop rate, coefficient, sharpness, load, similarity, by layer."""

from collections.abc import Iterator, Sequence
from html import escape

from pipelines.reporting.bins import Bin
from pipelines.reporting.experts import Experts
from pipelines.reporting.recorded import Recorded
from pipelines.screen.page.chart import Chart, Line, chart
from pipelines.screen.page.figures import value_text
from pipelines.screen.page.heat import Sides, heat_map, map_width, scale_bar
from pipelines.screen.page.svg import element
from pipelines.screen.page.table import missing, section, table

_KINDS = {
    "drop_rate": (
        "Drop rate",
        "fraction of assignments",
        "Share of (token, expert) pairs beyond capacity; the virtual one in a run without.",
    ),
    "coefficient": (
        "Balance coefficient",
        "weight of the balance loss",
        "An adaptive one follows the drop rate of its layer.",
    ),
    "overload": (
        "Overload",
        "fullest expert over the mean",
        "1 is balanced; the number of experts is the most.",
    ),
    "sharpness": (
        "Sharpness of the gate",
        "ratio of the two largest scores",
        "1: the router does not decide.",
    ),
    "balance_loss": ("Balance loss", "no unit, without its coefficient", ""),
    "similarity": (
        "Similarity of experts",
        "mean cosine of all pairs",
        "1: equal, as after copying; near 0: as from scratch.",
    ),
}
_MOST_CELLS = 6000
"""Cells of the maps of load; of more, only the newest part of the run is drawn."""


def experts(run: Recorded) -> Iterator[str]:
    """Yield the section; a run without experts has none."""
    found = run.experts
    kinds = [kind for kind in _KINDS if kind in found.over_layers]
    if not kinds:
        if run.steps:
            yield from section("Experts")
            yield missing("No layer with experts is in the journal: the model is dense.")
        return
    yield from section(
        "Experts",
        "The line is the mean over all layers, the band is the layers with the least and the most. "
        "Below, a row of a map is a layer, a column some steps.",
    )
    yield from _unseen(found)
    charts = (chart(_over_layers(found, kind)) for kind in kinds)
    yield element("div", *charts, class_="charts")
    yield element("div", *(_map(found, kind) for kind in kinds), class_="charts")
    yield from _loads(found)
    yield from _closest(found)


def _unseen(found: Experts) -> Iterator[str]:
    if "similarity" not in found.over_layers:
        yield missing(
            "No similarity of experts: monitor.every in the run file compares their weights every "
            "so many steps."
        )


def _over_layers(found: Experts, kind: str) -> Chart:
    """Return the chart of the mean, whose band is from the least layer to the most."""
    title, unit, about = _KINDS[kind]
    triples = zip(*(curve.bins for curve in found.over_layers[kind]), strict=True)
    bins = [
        Bin(mean.start, mean.stop, mean.count, mean.total, least.least, most.most)
        for least, mean, most in triples
    ]
    return Chart(title, unit, [Line("mean over layers", bins)], about=about)


def _map(found: Experts, kind: str) -> str:
    """Return the map of a kind: layers over time, in one scale."""
    title, unit, _ = _KINDS[kind]
    curves = found.by_layer[kind]
    starts = [each.start for each in max((c.bins for c in curves.values()), key=len)]
    rows = [_row(curve.found, starts) for _, curve in sorted(curves.items())]
    spans = [curve.span for curve in curves.values() if curve.span is not None]
    span = min(low for low, _ in spans), max(high for _, high in spans)
    names = [str(layer) for layer in sorted(curves)]
    sides = Sides("layer", "step", [value_text(start) for start in starts])
    caption = f"<b>{escape(title)} by layer</b> <span>{escape(unit)}; across: step</span>"
    return element(
        "figure",
        element("figcaption", caption),
        scale_bar(*span),
        heat_map(rows, names, span, f"{title} of each layer over the steps", sides),
        class_="chart map",
    )


def _row(bins: Sequence[Bin], starts: Sequence[float]) -> list[float | None]:
    at = {each.start: each.mean for each in bins}
    return [at.get(start) for start in starts]


def _loads(found: Experts) -> Iterator[str]:
    """Yield a map of the load of all experts for each part of the run, in one scale."""
    parts = [part for part in found.loads.parts if any(part[2].values())]
    if not parts:
        return
    cells = sum(len(load) for load in parts[-1][2].values())
    if cells * len(parts) > _MOST_CELLS:
        parts = parts[-1:]
    most = max(max(load) * len(load) for part in parts for load in part[2].values() if load)
    yield element("h3", "Load of each expert")
    yield element("p", "Pairs of an expert over the mean of its layer, by part of the run.")
    yield scale_bar(0.0, max(2.0, most))
    figures = (_load_map(*part, max(2.0, most)) for part in parts)
    widest = max(len(load) for part in parts for load in part[2].values())
    yield element("div", *figures, class_="charts loads", style=f"--map:{map_width(widest):g}px")


def _load_map(start: float, stop: float, loads: dict[int, list[float]], most: float) -> str:
    columns = max(map(len, loads.values()))
    rows: list[list[float | None]] = [
        [*(share * len(load) for share in load), *[None] * (columns - len(load))]
        for load in loads.values()
    ]
    caption = f"steps {start:g} to {stop:g}" if start < stop else f"step {start:g}"
    label = f"Load of each expert by layer, {caption}"
    drawn = heat_map(rows, [str(layer) for layer in loads], (0.0, most), label, Sides("layer"))
    told = f"<b>{caption}</b> <span>down: layer; across: expert</span>"
    return element("figure", element("figcaption", told), drawn, class_="chart map")


def _closest(found: Experts) -> Iterator[str]:
    if not found.closest:
        return
    rows = [
        (str(layer), f"{one} and {other}", f"{cosine:.4f}")
        for layer, (one, other, cosine) in sorted(found.closest.items())
    ]
    inner = table("The most similar pair of each layer", ("layer", "experts", "cosine"), rows)
    yield element("details", element("summary", "the most similar pair of each layer"), inner)
