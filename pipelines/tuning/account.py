"""What becomes of the rows of an input: kept, changed, or left out for a reason."""

from collections import Counter
from collections.abc import Iterable

from moe.errors import DataError
from pipelines.corpus.fitting import NOTHING_COUNTS, TOO_LONG, Fitting
from pipelines.corpus.manifest import RowCounts
from pipelines.corpus.writing import Report

REPEATED = "repeated"
CUT_OFF = "turns after the last answer were cut off"
ENDLESS = "no end token of the model counts"
SPECIAL = "messages hold texts that are read as special tokens"

_NO_FAULT = (REPEATED, TOO_LONG)
"""Reasons that are no fault of a row: it was kept once, or left out as asked."""


class Account:
    """Counts rows by what became of them. With ``strict``, a row with a fault is an error."""

    def __init__(self, strict: bool) -> None:
        self.read = self.kept = 0
        self.changes: Counter[str] = Counter()
        self._strict = strict
        self._odd: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def keep(self, changes: Iterable[str]) -> None:
        """Count a row that is kept, and what was done to it, or is to be known of it."""
        self.kept += 1
        self.changes.update(changes)

    def leave_out(self, source: str, reason: str) -> None:
        """Count a row that is left out; DataError where that is not allowed."""
        self._odd[reason] += 1
        self._first.setdefault(reason, source)
        if not self._strict or reason in _NO_FAULT:
            return
        remedy = "correct the row"
        if reason == NOTHING_COUNTS:
            remedy = "choose longer rows or another --truncate"
        raise DataError(f"{source}: {reason}; {remedy}, or leave --strict out")

    def check_kept(self) -> None:
        """Raise DataError if no row was kept."""
        if not self.kept:
            raise DataError(
                f"none of {self.read} rows can be used: {self._reasons() or 'there are none'}"
            )

    def counts(self, fitting: Fitting) -> RowCounts:
        """Return the counts for the manifest."""
        odd, changes = dict(self._odd), dict(self.changes)
        return RowCounts(self.read, fitting.truncated, fitting.lost, odd, changes)

    def tell(self, fitting: Fitting, report: Report) -> None:
        """Report the counts."""
        report(
            f"{self.read:,} rows read, {self.kept:,} kept; of these {fitting.truncated:,} "
            f"truncated, by {fitting.lost:,} tokens"
        )
        if self._odd:
            report(f"left out: {self._reasons()}")
        for change, count in self.changes.items():
            report(f"in {count:,} rows {change}")
        if self.changes[ENDLESS]:
            report(
                "caution: where no end token counts, the model does not learn where an answer "
                "ends; take a template that writes the end token within its answers, or name its "
                "token in eos_token_id of generation_config.json"
            )

    def _reasons(self) -> str:
        return "; ".join(
            f"{count:,} {reason} (first {self._first[reason]})"
            for reason, count in self._odd.most_common()
        )
