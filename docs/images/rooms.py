"""Draws the rooms of the source and the imports between them: ``python -m docs.images.rooms``.

The picture is made from the imports themselves, so it cannot drift: a test draws it again and
compares. A room is a folder, or a file beside folders, of one of the four packages. It stands one
floor above the highest room that it imports, and every line goes down.
"""

from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from html import escape
from pathlib import Path

import grimp

PICTURE = Path(__file__).with_name("rooms.svg")
PACKAGES = ("pipelines", "actors", "cluster", "moe")
GROUND = {
    "actors": ("calls", "commands", "deadlines", "device"),
    "cluster": (),
    "pipelines": (),
    "moe": (),
}
"""Files of a package that stand on the ground together and are drawn as one room."""

WIDTH, HEIGHT, GAP, MARGIN, FLOOR = 108, 30, 14, 22, 62
COLOURS = {"pipelines": "#dbeafe", "actors": "#fde8cf", "cluster": "#dcf5e3", "moe": "#ece7fb"}
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1f2937;text-anchor:middle}"
    ".title{font-weight:600;font-size:14px;text-anchor:start}"
    ".arrow{stroke:#64748b;stroke-width:1;opacity:.55}"
    ".between{stroke:#475569;stroke-width:2.2}"
)


@dataclass(frozen=True, slots=True)
class Package:
    """The rooms of one package by floor, the ground floor first, and who imports whom."""

    name: str
    floors: tuple[tuple[str, ...], ...]
    imports: frozenset[tuple[str, str]]

    @property
    def width(self) -> int:
        """Pixels of its box."""
        widest = max(len(rooms) for rooms in self.floors)
        return widest * (WIDTH + GAP) - GAP + 2 * MARGIN

    @property
    def height(self) -> int:
        """Pixels of its box."""
        return len(self.floors) * FLOOR + MARGIN


@cache
def _graph() -> grimp.ImportGraph:
    return grimp.build_graph(*PACKAGES, cache_dir=None)


def _room(package: str, module: str) -> str:
    """Return the room of a module: the folder or file below its package."""
    name = module.split(".")[1]
    return "ground" if name in GROUND[package] else name


def read_package(name: str) -> Package:
    """Return the rooms of a package and the direct imports between them."""
    graph = _graph()
    modules = [module for module in graph.modules if module.startswith(f"{name}.")]
    rooms = {_room(name, module) for module in modules}
    imports = {
        (_room(name, module), _room(name, other))
        for module in modules
        for other in graph.find_modules_directly_imported_by(module)
        if other.startswith(f"{name}.")
    }
    down = frozenset((one, other) for one, other in imports if one != other)
    return Package(name, _floors(rooms, down), down)


def _floors(rooms: set[str], imports: frozenset[tuple[str, str]]) -> tuple[tuple[str, ...], ...]:
    """Return rooms by floor; graphlib.CycleError where rooms import each other in a circle."""
    below = {room: {other for one, other in imports if one == room} for room in rooms}
    floor: dict[str, int] = {}
    for room in TopologicalSorter(below).static_order():
        floor[room] = max((floor[other] + 1 for other in below[room]), default=0)
    count = max(floor.values()) + 1
    return tuple(tuple(sorted(room for room in rooms if floor[room] == n)) for n in range(count))


def _draw(package: Package, left: int, top: int, width: int) -> list[str]:
    """Draw one package with its upper left corner at a point."""
    spots: dict[str, tuple[float, float]] = {}
    for number, rooms in enumerate(reversed(package.floors)):
        row = len(rooms) * (WIDTH + GAP) - GAP
        for place, room in enumerate(rooms):
            x = left + (width - row) / 2 + place * (WIDTH + GAP)
            spots[room] = (x, top + 30 + number * FLOOR)
    box = f'<rect x="{left}" y="{top}" width="{width}" height="{package.height}" rx="8" '
    parts = [f'{box}fill="{COLOURS[package.name]}"/>']
    parts.append(f'<text class="title" x="{left + 10}" y="{top + 19}">{package.name}/</text>')
    for one, other in sorted(package.imports):
        (x1, y1), (x2, y2) = spots[one], spots[other]
        parts.append(
            f'<line class="arrow" x1="{x1 + WIDTH / 2:g}" y1="{y1 + HEIGHT:g}" '
            f'x2="{x2 + WIDTH / 2:g}" y2="{y2:g}"/>'
        )
    for room, (x, y) in sorted(spots.items()):
        parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="5" fill="#fff" '
            f'stroke="#94a3b8"/><text x="{x + WIDTH / 2:g}" y="{y + 19:g}">{escape(room)}</text>'
        )
    return parts


def draw() -> str:
    """Return the picture as SVG: pipelines above actors and cluster, moe below."""
    top, left, right, base = (read_package(name) for name in PACKAGES)
    middle = left.width + GAP + right.width
    width = max(top.width, middle, base.width)
    spare = width - middle
    second, third = top.height + 40, top.height + max(left.height, right.height) + 80
    parts = _draw(top, 0, 0, width)
    parts += _draw(left, 0, second, left.width + spare // 2)
    parts += _draw(right, width - right.width - spare // 2, second, right.width + spare // 2)
    parts += _draw(base, 0, third, width)
    for x in (width // 4, 3 * width // 4):
        for y in (second, third):
            parts.append(
                f'<line class="between" x1="{x}" y1="{y - 38}" x2="{x}" y2="{y - 4}" '
                'marker-end="url(#head)"/>'
            )
    head = (
        '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" '
        'orient="auto"><path d="M0 0L8 4L0 8z" fill="#475569"/></marker>'
    )
    height = third + base.height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-4 -4 {width + 8} {height + 8}" '
        f'width="{width + 8}"><title>The rooms of raymoe and the imports between them</title>'
        f"<style>{STYLE}</style><defs>{head}</defs>" + "\n".join(parts) + "</svg>\n"
    )


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
