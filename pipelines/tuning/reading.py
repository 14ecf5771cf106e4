"""Rows to encoded documents: recognised, rendered, spelled in tokens, and cut to fit."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from moe.config.run import DataKind
from moe.errors import DataError
from pipelines.corpus.fitting import Fitting
from pipelines.corpus.manifest import Answers
from pipelines.corpus.units import Encoded, Unit, lot_of
from pipelines.serving.text.text import Spelled, Text
from pipelines.tuning.account import CUT_OFF, ENDLESS, REPEATED, SPECIAL, Account
from pipelines.tuning.exchange import Exchange, OddRow
from pipelines.tuning.records import Record
from pipelines.tuning.rendering import Rendered, Renderer
from pipelines.tuning.shapes import Shape, exchanges, recognised
from pipelines.tuning.templates import OWN

_BATCH_ROWS = 256


@dataclass(frozen=True, slots=True)
class TuningOptions:
    """How rows are read and rendered.

    ``shape`` None: that of the columns of each file. ``system`` is the system message of rows
    without one. With ``strict``, a row that cannot be used is an error.
    """

    kind: DataKind
    shape: Shape | None = None
    template: str = OWN
    answers: Answers = "all"
    system: str | None = None
    strict: bool = False


class _Row(NamedTuple):
    """The texts of a row, and what is to be known of it."""

    record: Record
    texts: list[Rendered]
    changes: list[str]


class Reading:
    """Turns rows into units; ``account`` and ``fitting`` have what became of them."""

    def __init__(
        self, text: Text, renderer: Renderer, options: TuningOptions, fitting: Fitting, seed: int
    ) -> None:
        self.account = Account(options.strict)
        self.fitting = fitting
        self._text = text
        self._renderer = renderer
        self._options = options
        self._seed = seed
        self._ends = [*text.eos]
        self._special = text.special
        self._seen: set[bytes] = set()
        self._shapes: dict[Path, Shape] = {}

    def units(self, records: Iterable[Record]) -> Iterator[Unit]:
        """Yield a unit for each row that is kept; DataError if none is."""
        rows = self._rendered(records)
        while batch := [*islice(rows, _BATCH_ROWS)]:
            spelled = iter(self._text.spelled([each.text for row in batch for each in row.texts]))
            for record, texts, changes in batch:
                found = self._fitted([_encoded(next(spelled), each) for each in texts])
                if isinstance(found, str):
                    self.account.leave_out(record.source, found)
                    continue
                if not all(self._ends_in(each) for each in found):
                    changes.append(ENDLESS)
                self.account.keep(changes)
                lot = lot_of("\0".join(each.text for each in texts), self._seed)
                yield Unit(record.domain, found, lot)
        self.account.check_kept()

    def _rendered(self, records: Iterable[Record]) -> Iterator[_Row]:
        """Yield the texts of each row that has some."""
        for record in records:
            self.account.read += 1
            try:
                found = self._exchanges(record)
                texts = [_checked(self._renderer.render(each)) for each in found]
            except OddRow as error:
                self.account.leave_out(record.source, str(error))
            else:
                yield _Row(record, texts, [*self._changes(found)])

    def _changes(self, found: Sequence[Exchange]) -> Iterator[str]:
        """Yield what is to be known of the conversations of a row."""
        if any(each.answers[-1] + 1 < len(each.messages) for each in found):
            yield CUT_OFF
        said = (message["content"] for each in found for message in each.messages)
        if any(name in content for content in said for name in self._special):
            yield SPECIAL

    def _exchanges(self, record: Record) -> tuple[Exchange, ...]:
        if record.fault is not None:
            raise OddRow(record.fault)
        fields, system = record.fields, self._options.system
        if system is not None and not (fields.get("system") or fields.get("system_prompt")):
            fields = {**fields, "system": system}
        return exchanges(fields, self._shape(record))

    def _shape(self, record: Record) -> Shape:
        """Return the shape that was given, or that of the first row of the file."""
        if self._options.shape is not None:
            return self._options.shape
        if record.file not in self._shapes:
            try:
                self._shapes[record.file] = recognised(record.fields, self._options.kind)
            except DataError as error:
                raise DataError(f"{record.source}: {error}") from error
        return self._shapes[record.file]

    def _fitted(self, documents: Sequence[Encoded]) -> tuple[Encoded, ...] | str:
        """Return the documents of a row within the length of rows, or why it is left out."""
        digest = hashlib.blake2b(digest_size=16)
        for each in documents:
            digest.update(each.tokens.tobytes())
            digest.update(b"" if each.counted is None else each.counted.tobytes())
        if digest.digest() in self._seen:
            return REPEATED
        self._seen.add(digest.digest())
        return self.fitting.fit(documents)

    def _ends_in(self, document: Encoded) -> bool:
        """Tell whether an end token counts."""
        return bool(np.isin(document.marked, self._ends).any())


def _checked(rendered: Rendered) -> Rendered:
    """Refuse half of a surrogate pair, which no tokenizer can read."""
    try:
        rendered.text.encode()
    except UnicodeEncodeError:
        raise OddRow("half of a surrogate pair, which is not text") from None
    return rendered


def _encoded(spelled: Spelled, rendered: Rendered) -> Encoded:
    """Return tokens, those marked that stand for any character of an answer."""
    counted = np.zeros(len(spelled.tokens), dtype=np.uint8)
    if len(counted):
        starts, stops = np.array(spelled.offsets).T
        for first, last in rendered.answers:
            counted[(starts < last) & (stops > first)] = 1
    return Encoded(np.array(spelled.tokens, dtype=np.int32), counted)
