"""What a study found, as values that a page, a terminal and a file of JSON show alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipelines.study.compare import Verdict
from pipelines.study.record import Record, curve

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence of a paper, its figure, ours and the verdict; ``why`` says what the verdict rests
    on. ``source`` is the paper's section, table or figure.
    """

    says: str
    source: str
    paper: str
    ours: str
    verdict: Verdict
    why: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows by column name."""

    title: str
    rows: Sequence[Mapping[str, str | float | int]]


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines over one axis; ``series`` are named."""

    title: str
    across: str
    up: str
    series: Mapping[str, Points]


def loss_chart(found: Mapping[str, Sequence[Record]], title: str = "Held-out loss") -> Chart:
    """Return the held-out losses of some kinds of run, means over their seeds."""
    lines = {name: curve(records, lambda look: look.loss) for name, records in found.items()}
    return Chart(title, "tokens", "nats per token", lines)


@dataclass(frozen=True, slots=True)
class Findings:
    """All of a study: first the claims, then what they rest on."""

    title: str
    about: str
    claims: Sequence[Claim]
    tables: Sequence[Table] = ()
    charts: Sequence[Chart] = ()
    notes: Sequence[str] = field(default=())
