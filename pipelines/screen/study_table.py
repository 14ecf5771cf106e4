"""What a study found, on the terminal."""

from rich.table import Table
from rich.text import Text

from pipelines.study import findings
from pipelines.study.compare import Verdict
from pipelines.study.findings import Findings

STYLES: dict[Verdict, str] = {
    "holds": "green",
    "does not hold": "red",
    "not seen at this size": "yellow",
}


def claims_table(found: Findings) -> Table:
    """Return the claims: the paper's figure, ours, the verdict."""
    table = Table(title=found.title, caption=found.about, caption_justify="left")
    for heading in ("claim", "source", "paper", "ours", "verdict"):
        table.add_column(heading)
    for claim in found.claims:
        says = Text.assemble(claim.says, (f"\n{claim.why}", "dim") if claim.why else "")
        verdict = Text(claim.verdict, STYLES[claim.verdict])
        table.add_row(says, claim.source, claim.paper, claim.ours, verdict)
    return table


def figures_table(found: findings.Table) -> Table:
    """Return a table of figures."""
    table = Table(title=found.title)
    columns = list(found.rows[0]) if found.rows else []
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in found.rows:
        table.add_row(*(shown(row[column]) for column in columns))
    return table


def shown(value: str | float | int) -> str:
    """Return a figure as a person reads it: four significant digits, thousands with commas."""
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
