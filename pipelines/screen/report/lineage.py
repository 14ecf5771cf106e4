"""The lineage of a run's model: each conversion since the base, with its receipt."""

from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.reporting.lineage import lineage
from pipelines.reporting.planned import Planned
from pipelines.screen.page.table import missing, section, table

_NAMES = ("step", "from", "options", "its receipt")


def lineage_of(found: Planned | str) -> Iterator[str]:
    """Yield the section."""
    yield from section("Where the weights come from")
    if isinstance(found, str):
        yield missing("The model is not known: it stands in the run of a checkpoint.")
        return
    model = found.run.model.path
    steps = lineage(model)
    if not steps:
        yield missing(
            f"{model} has neither a card nor a receipt of raymoe: it was not made by it, or it is "
            "gone."
        )
        return
    yield table("Steps from the base to the model of the run", _NAMES, map(_row, steps))


def _row(step: Mapping[str, Any]) -> tuple[str, ...]:
    options = step.get("options")
    told = options.items() if isinstance(options, Mapping) else ()
    return (
        str(step.get("method", "")),
        _joined(step.get("source")),
        ", ".join(f"{key} {value}" for key, value in told),
        _joined(step.get("notes")),
    )


def _joined(told: Any) -> str:
    return ", ".join(map(str, told)) if isinstance(told, list) else str(told or "")
