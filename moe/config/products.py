"""Which library multiplies float32 matrices on a processor: a value that a run records.

The choice depends on the processor, on the role of a product in training and on its rows, never on
a measurement while a run trains: two libraries round differently, and a resumed run must compute
the same bits. ``MEASURED`` is what a new run takes. ``benchmarks.products`` measures it and
benchmarks/README.md has the figures; another kind of processor becomes another entry.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, cast, get_args

from moe.errors import ConfigError

Library = Literal["onednn", "mkl", "openblas"]
Role = Literal["forward", "input", "weight"]
"""The product of a layer, the gradient of its input, and the gradient of its weight."""

LIBRARIES: tuple[Library, ...] = get_args(Library)
ROLES: tuple[Role, ...] = get_args(Role)

Rule = tuple[int, Library]
"""From so many rows on, this library; up to the rows of the next rule."""


@dataclass(frozen=True, slots=True)
class Products:
    """The rules of each role on a kind of ``processor``, in rising order of rows, the first from 1.

    The rows of a product are the tokens that a layer multiplies, in all three roles.
    """

    processor: str
    forward: tuple[Rule, ...]
    input: tuple[Rule, ...]
    weight: tuple[Rule, ...]

    def __post_init__(self) -> None:
        for role in ROLES:
            rules = self.rules(role)
            rising = all(one[0] < other[0] for one, other in pairwise(rules))
            if not rules or rules[0][0] != 1 or not rising:
                raise ConfigError(
                    f"the rules of {role} products on {self.processor} begin at rows "
                    f"{[rows for rows, _ in rules]}; they must begin at 1 and rise"
                )
            if unknown := {library for _, library in rules}.difference(LIBRARIES):
                raise ConfigError(
                    f"{', '.join(sorted(unknown))} is no library of products; this version has "
                    f"{', '.join(LIBRARIES)}"
                )

    def rules(self, role: Role) -> tuple[Rule, ...]:
        """Return the rules of a role."""
        return {"forward": self.forward, "input": self.input, "weight": self.weight}[role]

    def library(self, role: Role, rows: int) -> Library:
        """Return the library of a product of so many rows."""
        found: Library = "onednn"
        for start, library in self.rules(role):
            if start > rows:
                break
            found = library
        return found

    def uses(self, library: Library) -> bool:
        """Tell whether a rule names a library."""
        return any(library == each for role in ROLES for _, each in self.rules(role))


def always(processor: str, library: Library) -> Products:
    """Return the rules that give every product to one library."""
    rules: tuple[Rule, ...] = ((1, library),)
    return Products(processor, rules, rules, rules)


def by_processor(entries: Iterable[Products]) -> dict[str, Products]:
    """Return rules by the kind of processor; of several for one kind the first."""
    return {entry.processor: entry for entry in reversed([*entries])}


def read_products(table: Mapping[str, Any]) -> Products:
    """Return the rules of a table; ConfigError, KeyError, TypeError or ValueError if it has
    others.
    """
    return Products(table["processor"], *(_rules(table[role]) for role in ROLES))


def _rules(table: Sequence[tuple[int, str]]) -> tuple[Rule, ...]:
    return tuple((int(rows), cast(Library, str(library))) for rows, library in table)


MEASURED: Mapping[str, Products] = by_processor(
    (
        Products(
            "avx512",
            forward=((1, "onednn"), (256, "openblas")),
            input=((1, "onednn"), (256, "openblas")),
            weight=((1, "onednn"), (32, "openblas")),
        ),
        Products(
            "avx2",
            forward=((1, "onednn"), (32, "openblas")),
            input=((1, "onednn"), (32, "openblas")),
            weight=((1, "onednn"), (32, "openblas")),
        ),
    )
)
"""What was measured, by the kind of processor (``moe.nn.processor``)."""

TORCH_ALONE: Mapping[str, Products] = by_processor(
    (
        Products(
            "avx2",
            forward=((1, "onednn"),),
            input=((1, "onednn"),),
            weight=((1, "onednn"), (64, "mkl")),
        ),
    )
)
"""What was measured of torch's own libraries, where they are not oneDNN always."""

UNRECORDED: Mapping[str, Products] = {kind: always(kind, "onednn") for kind in MEASURED}
"""What runs did before they recorded it."""
