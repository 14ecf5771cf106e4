"""Draws how a run heals: ``python -m docs.images.elastic``.

Two replicas of two stages on two nodes. Who holds whose copy is asked of the code that decides it,
so the picture cannot drift from that; a test draws it again and compares.
"""

from collections.abc import Iterator
from pathlib import Path

from moe.planning.plan.seats import Seat, Seats
from moe.planning.policy.holders import holders

PICTURE = Path(__file__).with_name("elastic.svg")
SEATS = Seats(2, 2, 1)
NODES = {seat: f"node {'ab'[seat.replica]}" for seat in SEATS}
LOST = Seat(0, 1, 0)
"""The rank whose process dies, in the step after the boundary that is copied."""

WIDTH, TOP, LANE, GAP, NODE_GAP = 900, 46, 40, 14, 34
STEP, BAR = 70, 26
ARROWS = (12, 20, 58, 66)
"""Pixels from a boundary to the arrow of each rank's copy, beside the words on the bars."""
BOUNDARY, COPIED, DIES, HEALS, JOINS, AGAIN = 224, 308, 354, 388, 556, 668
"""Pixels from the left at which something happens, in the order of time."""

STYLE = (
    "text{font:12.5px system-ui,sans-serif;fill:#1f2937}.b{font-weight:600}"
    ".s{font-size:11.5px;fill:#475569}.m{text-anchor:middle}"
    ".node{fill:#f8fafc;stroke:#cbd5e1}.step{fill:#c9defb;stroke:#6b93cf}"
    ".lost{fill:#fee2e2;stroke:#dc2626}.new{fill:#ece7fb;stroke:#8b7bd8}"
    ".again{fill:#d3eed9;stroke:#5d9e6f}.wait{fill:none;stroke:#94a3b8;stroke-dasharray:3 3}"
    ".at{stroke:#d08a3c;stroke-width:1.6;stroke-dasharray:5 3}"
    ".copy{stroke:#d08a3c;stroke-width:1.4;fill:none}"
    ".dead{stroke:#dc2626;stroke-width:2.4;fill:none}"
)
HEAD = (
    '<defs><marker id="c" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
    'orient="auto"><path d="M0 0L8 4L0 8z" fill="#d08a3c"/></marker></defs>'
)
TITLE = "A rank dies and the run heals"
TOLD = (
    "Four ranks on two nodes do step 5. At the boundary after step 5 each copies what it alone "
    "holds to a rank of the other node, while step 6 runs. In step 7 rank 1 dies. The others leave "
    "their groups and keep their processes. A new process becomes rank 1, all meet in a new epoch, "
    "rank 1 receives its copy from its holder, the others go back to their own copy, and steps 6 "
    "and 7 are done again."
)


def draw() -> str:
    """Return the picture as SVG."""
    height = _lane(Seat(1, 1, 0)) + LANE + 100
    parts = [*_nodes(), *_before(), *_loss(), *_after(), *_legend(height)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'role="img" aria-labelledby="t d"><title id="t">{TITLE}</title><desc id="d">{TOLD}</desc>'
        f"<style>{STYLE}</style>{HEAD}" + "\n".join(parts) + "</svg>\n"
    )


def _lane(seat: Seat) -> int:
    """Return the upper edge of the lane of a rank."""
    return TOP + SEATS.rank(seat) * (LANE + GAP) + seat.replica * NODE_GAP


def _middle(seat: Seat) -> float:
    return _lane(seat) + LANE / 2


def _nodes() -> Iterator[str]:
    for replica in (0, 1):
        top, last = _lane(Seat(replica, 0, 0)), _lane(Seat(replica, 1, 0)) + LANE
        yield (
            f'<rect class="node" x="8" y="{top - 12}" width="{WIDTH - 16}" '
            f'height="{last - top + 24}" rx="7"/>'
        )
    for seat in SEATS:
        top = _lane(seat)
        yield _text("b", 20, top + 16, f"rank {SEATS.rank(seat)}, {NODES[seat]}")
        yield _text("s", 20, top + 32, f"replica {seat.replica}, stage {seat.stage}")


def _before() -> Iterator[str]:
    """Two steps, and between them the copies that travel beside the second."""
    for seat in SEATS:
        yield _bar("step", seat, BOUNDARY - STEP - 6, STEP, "step 5")
        yield _bar("step", seat, BOUNDARY + 6, STEP, "step 6")
    yield from _boundary(BOUNDARY, "boundary 5")
    for seat, holder in sorted((holders(NODES) or {}).items()):
        yield _arrow(BOUNDARY + ARROWS[SEATS.rank(seat)], seat, holder)


def _loss() -> Iterator[str]:
    for seat in SEATS:
        if seat != LOST:
            yield _bar("wait", seat, COPIED, JOINS - COPIED - 8, "")
            yield _bar("step", seat, COPIED, DIES - COPIED + 8, "step 7")
    yield _bar("lost", LOST, COPIED, DIES - COPIED, "step 7")
    y = _middle(LOST)
    yield f'<path class="dead" d="M{DIES - 7} {y - 11}l14 22m0 -22l-14 22"/>'
    yield _bar("new", LOST, HEALS, JOINS - HEALS - 8, "new process, built")
    yield _text("s m", (DIES + 8 + JOINS) / 2, _middle(Seat(0, 0, 0)) + 4, "seen, decided; waits")


def _after() -> Iterator[str]:
    """All meet; the copy comes back from its holder, and the steps since are done again."""
    yield from _boundary(JOINS, "epoch 2: all join")
    holder = (holders(NODES) or {})[LOST]
    yield _arrow(JOINS + 12, holder, LOST)
    for seat in SEATS:
        own = "from its holder" if seat == LOST else "its own copy"
        yield _text("s", JOINS + 20, _middle(seat) + 4, own)
        yield _bar("again", seat, AGAIN, STEP, "step 6")
        yield _bar("again", seat, AGAIN + STEP + 4, STEP, "step 7")
        yield _bar("step", seat, AGAIN + 2 * STEP + 8, STEP, "step 8")


def _legend(height: int) -> Iterator[str]:
    y = height - 66
    yield f'<path class="copy" d="M20 {y}H50" marker-end="url(#c)"/>'
    yield _text("s", 60, y + 4, "a copy: 12 bytes a parameter over the replicas, on another node")
    yield f'<rect class="again" x="20" y="{y + 14}" width="30" height="14"/>'
    yield _text("s", 60, y + 26, "done again: the same numbers to the bit")
    yield f'<rect class="wait" x="20" y="{y + 38}" width="30" height="14"/>'
    yield _text("s", 60, y + 50, "the process stays, out of its groups, with its weights")


def _boundary(x: int, name: str) -> Iterator[str]:
    low, high = _lane(Seat(0, 0, 0)) - 18, _lane(Seat(1, 1, 0)) + LANE + 14
    yield f'<line class="at" x1="{x}" y1="{low}" x2="{x}" y2="{high}"/>'
    yield _text("b m", x, low - 8, name)


def _bar(kind: str, seat: Seat, x: int, width: int, name: str) -> str:
    top = _lane(seat) + (LANE - BAR) // 2
    box = f'<rect class="{kind}" x="{x}" y="{top}" width="{width}" height="{BAR}" rx="3"/>'
    return box + (_text("m", x + width / 2, top + 17, name) if name else "")


def _arrow(x: int, seat: Seat, holder: Seat) -> str:
    """Draw an arrow from one lane to another, from the edge of a bar to the edge of a bar."""
    down = _lane(holder) > _lane(seat)
    edge = BAR / 2 if down else -BAR / 2
    start, end = _middle(seat) + edge, _middle(holder) - edge
    return f'<path class="copy" d="M{x} {start:g}V{end:g}" marker-end="url(#c)"/>'


def _text(kind: str, x: float, y: float, words: str) -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{words}</text>'


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
