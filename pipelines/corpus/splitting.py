"""Which documents are held out for evaluation."""

from collections.abc import Sequence

from moe.errors import DataError
from pipelines.corpus.units import Entry


def split(
    entries: Sequence[Entry], held_out_fraction: float, what: str = "documents with text"
) -> tuple[list[Entry], list[Entry]]:
    """Hold out the units with the lowest lots in each domain; at least one, never all.

    A lot depends only on the text and the seed, so additional documents change the split of few
    others.
    """
    if len(entries) < 2:
        raise DataError(
            f"found {len(entries)} {what}; training and held-out need one each; "
            "give more documents, or split the file into several"
        )
    by_domain: dict[int, list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: (entry.lot, entry.start)):
        by_domain.setdefault(entry.domain, []).append(entry)
    chosen: set[int] = set()
    for members in by_domain.values():
        wanted = max(1, round(held_out_fraction * len(members)))
        chosen.update(entry.start for entry in members[: min(wanted, len(members) - 1)])
    if not chosen:  # every domain is a single document
        chosen.add(min(entries, key=lambda entry: (entry.lot, entry.start)).start)
    train = [entry for entry in entries if entry.start not in chosen]
    return train, [entry for entry in entries if entry.start in chosen]
