"""The picture of a step: when each stage works on which micro-batch; several steps on one axis.

Pieces that are too narrow to see are merged, with the micro-batches of all of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moe.planning.schedules.schedule import BACKWARD, FORWARD, INPUT, WEIGHT, Kind
from moe.planning.schedules.simulate import Event
from pipelines.screen.page.phrases import numbers, seconds
from pipelines.screen.page.step import Step
from pipelines.screen.page.svg import (
    PAGE_WIDTH,
    Scale,
    element,
    figure,
    hint,
    legend,
    line,
    rect,
    text_width,
    words,
)

_KINDS: dict[Kind, tuple[str, str]] = {
    FORWARD: ("forward", "forward"),
    BACKWARD: ("backward", "backward, with what is recomputed"),
    INPUT: ("backward", "backward: input gradient"),
    WEIGHT: ("weight", "backward: weight gradient"),
}
_MIXED = ("mixed", "forward and backward alternating")
_TAIL = ("tail", "gradient sum over replicas")
_UPDATE = ("after", "optimiser")
_TIED = ("after", "tied gradient sum, optimiser")
_TOP = 58.0
_HEADING = 24.0
_ROW, _TALL_ROW = 21.0, 32.0
_FEW = 6
_NAMES = 64.0
_IDLE = 90.0
_NARROWEST = 1.2
_NUMBER_FONT = 10.5


@dataclass(frozen=True, slots=True)
class _Piece:
    """Work of one kind from start to stop; a narrow piece may hold several kinds."""

    kinds: frozenset[Kind]
    micro_batches: tuple[int, ...]
    chunks: tuple[int, ...]
    start: float
    stop: float
    pieces: int = 1

    def with_next(self, other: "_Piece") -> "_Piece":
        """Return this piece merged with the next."""
        batches = tuple(sorted({*self.micro_batches, *other.micro_batches}))
        chunks = tuple(sorted({*self.chunks, *other.chunks}))
        kinds, pieces = self.kinds | other.kinds, self.pieces + other.pieces
        return _Piece(kinds, batches, chunks, self.start, other.stop, pieces)


def timeline(shown: Sequence[Step]) -> str:
    """Return the picture of one or more steps, one below the other."""
    longest = max(step.seconds for step in shown)
    scale = Scale(longest, _NAMES, PAGE_WIDTH - _IDLE)
    kinds: set[tuple[str, str]] = set()
    parts: list[str] = []
    top = _TOP
    for step in shown:
        top += _HEADING
        drawn, used = _chart(step, scale, top)
        parts += drawn
        kinds |= used
        top += len(step.line.events) * _row_height(step) + 12
    order = [*_KINDS.values(), _MIXED, _TAIL, _UPDATE, _TIED]
    known = [(f"work {kind}", meaning) for kind, meaning in order if (kind, meaning) in kinds]
    unit = words(scale.right + 12, top + 14, "seconds", class_="quiet")
    marked = rect(0, _TOP, 0, top - _TOP, class_="marked")
    label = f"when {len(shown[0].line.events)} stages work in a step"
    meanings = [*legend(0, 4, known), *legend(0, 22, _shades(shown[0].training))]
    parts = [*meanings, _ticks(scale, _TOP + _HEADING - 4, top), *parts, unit, marked]
    edges = {"data_left": scale.left, "data_right": scale.right, "data_most": _exact(longest)}
    return figure("timeline", top + 24, label, parts, **edges)


def _shades(training: bool) -> list[tuple[str, str]]:
    """Return the legend of the lighter colours and the grey."""
    odd = [("work forward odd", "odd micro-batches are lighter, here a forward pass")]
    if training:
        odd.append(("work backward odd", "and a backward pass"))
    return [*odd, ("idle", "waiting: the bubble")]


def _exact(time: float) -> str:
    """Return seconds in the form that the script reads."""
    return f"{time:.9g}"


def _ticks(scale: Scale, top: float, bottom: float) -> str:
    """Return lines at round seconds."""
    parts = []
    for tick in scale.ticks():
        x = scale.at(tick)
        parts.append(line(x, top, x, bottom, class_="grid"))
        parts.append(words(x, bottom + 14, f"{tick:g}", class_="middle quiet"))
    return element("g", *parts, class_="ticks", data_top=top, data_bottom=bottom)


def _row_height(step: Step) -> float:
    return _ROW if len(step.line.events) > _FEW else _TALL_ROW


def _chart(shown: Step, scale: Scale, top: float) -> tuple[list[str], set[tuple[str, str]]]:
    """Return the rows of one step, and the kinds of work in them."""
    line_of = shown.line
    row = _row_height(shown)
    used: set[tuple[str, str]] = set()
    bottom = top + len(line_of.events) * row
    step = shown.seconds
    end = scale.at(step)
    heading = f"{shown.name}: a step of {seconds(step)}"
    parts = [
        words(0, top - 9, heading, class_="strong"),
        words(PAGE_WIDTH - _IDLE + 12, top - 9, "bubble", class_="heading"),
    ]
    for stage, events in enumerate(line_of.events):
        at = top + stage * row
        pieces = list(_pieces(events, scale))
        drawn = [_drawn(piece, (stage, shown.several), scale, at, row - 4) for piece in pieces]
        used |= {_kind(piece) for piece in pieces}
        tail = (events[-1].stop, events[-1].stop + line_of.tails[stage], _TAIL)
        after = (step - shown.after_seconds, step, _TIED if shown.tied else _UPDATE)
        for start, stop, kind in (tail, after):
            if stop > start:
                drawn.append(_extra(kind, (start, stop), stage, scale, (at, row - 4)))
                used.add(kind)
        label = words(0, at + row / 2 + 2, f"stage {stage}")
        waits = f"{line_of.bubble[stage]:.1%}"
        idle = words(PAGE_WIDTH - _IDLE + 12, at + row / 2 + 2, waits)
        whole = {"data_start": 0, "data_stop": _exact(step)}
        background = rect(scale.left, at, end - scale.left, row - 4, class_="idle", **whole)
        parts.append(
            element("g", label, background, *drawn, idle, class_="stage", data_stage=stage)
        )
    mark = line(end, top - 5, end, bottom + 1, class_="finish", data_at=_exact(step))
    return [element("g", *parts, mark, class_="chart", data_name=shown.name)], used


def _pieces(events: tuple[Event, ...], scale: Scale) -> Iterator[_Piece]:
    """Yield the work of a stage; neighbours that are too narrow to distinguish are merged."""
    finest = scale.most * _NARROWEST / (scale.right - scale.left)
    held: _Piece | None = None
    for event in events:
        if event.stop <= event.start:
            continue
        kind, chunk, batch = event.action
        piece = _Piece(frozenset([kind]), (batch,), (chunk,), event.start, event.stop)
        if held is None:
            held = piece
            continue
        narrow = min(held.stop - held.start, piece.stop - piece.start) < finest
        near = piece.start - held.stop < finest
        if narrow and near and held.stop - held.start < 2 * finest:
            held = held.with_next(piece)
            continue
        yield held
        held = piece
    if held is not None:
        yield held


def _kind(piece: _Piece) -> tuple[str, str]:
    return _KINDS[next(iter(piece.kinds))] if len(piece.kinds) == 1 else _MIXED


def _drawn(piece: _Piece, place: tuple[int, bool], scale: Scale, top: float, height: float) -> str:
    """Return a piece of work, with its number if there is space.

    ``place`` has the stage, and whether the stage holds several chunks; then the hint names the
    chunk.
    """
    stage, several = place
    chunk = f", chunk {numbers(piece.chunks)}" if several else ""
    name, meaning = _kind(piece)
    left, right = scale.at(piece.start), scale.at(piece.stop)
    width = right - left - (0.6 if right - left > 3 else 0.0)
    first = piece.micro_batches[0]
    hover = (
        f"stage {stage}{chunk}, micro-batch {numbers(piece.micro_batches)}: {meaning}\n"
        f"from {seconds(piece.start)} to {seconds(piece.stop)}: "
        f"{seconds(piece.stop - piece.start)}"
    )
    kind = f"work {name} odd" if first % 2 else f"work {name}"
    parts = [hint(hover), rect(left, top, width, height, class_=kind)]
    one = len(piece.micro_batches) == 1
    if one and text_width(str(first), _NUMBER_FONT) < width:
        at = (left + width / 2, top + height / 2 + 3.2)
        parts.append(words(*at, str(first), class_="middle batch"))
    return element(
        "g",
        *parts,
        class_="piece",
        data_batch=first if one else None,
        data_chunk=piece.chunks[0] if several and len(piece.chunks) == 1 else None,
        data_pieces=piece.pieces,
        data_start=_exact(piece.start),
        data_stop=_exact(piece.stop),
    )


def _extra(
    kind: tuple[str, str],
    bounds: tuple[float, float],
    stage: int,
    scale: Scale,
    place: tuple[float, float],
) -> str:
    """Return a bar that follows the micro-batches of a stage."""
    name, meaning = kind
    start, stop = bounds
    left, right = scale.at(start), scale.at(stop)
    hover = hint(
        f"stage {stage}: {meaning}\nfrom {seconds(start)} to {seconds(stop)}: "
        f"{seconds(stop - start)}"
    )
    box = rect(left, place[0], right - left, place[1], class_=f"work {name}")
    times = {"data_start": _exact(start), "data_stop": _exact(stop)}
    return element("g", hover, box, class_="extra", data_kind=name, **times)
