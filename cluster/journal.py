"""The run's journal: a JSON object per line, with the numbers of a step or an event between steps.

A line is complete when it ends with a newline. A process that dies while writing leaves an
incomplete last line; readers ignore that line and the next writer removes it.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from moe.errors import DataError

STEP = "step"
JOURNAL = "journal.jsonl"
"""The name of the file in the directory of a run."""


class Journal:
    """Appends to the journal of one run. One writer at a time; any number of readers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_torn_line(path)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise DataError(
                f"cannot write the journal {path}: {error.strerror}; "
                "check that the directory can be written and the disk is not full"
            ) from error

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record and flush it to the operating system; NaN and infinity become null."""
        line = json.dumps(_plain(record), allow_nan=False, separators=(",", ":"))
        self._file.write(line + "\n")
        self._file.flush()

    def truncate_after(self, step: int) -> None:
        """Remove the records of steps above ``step``, and the events of such steps.

        A resumed run repeats those steps, and no step may be in the journal twice. An event that
        belongs to no step stays. The file is replaced atomically: readers see either the old file
        or the new file.
        """
        kept = _until(read(self.path), step)
        aside = self.path.with_name(self.path.name + ".part")
        text = "".join(json.dumps(record, separators=(",", ":")) + "\n" for record in kept)
        self._file.close()
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, self.path)
        self._file = self.path.open("a", encoding="utf-8")

    def close(self) -> None:
        """Close the file; the journal takes no more records."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def read(path: Path) -> list[dict[str, Any]]:
    """Return the complete records of a journal, oldest first."""
    return list(records(path))


def records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the complete records of a journal, oldest first; a long one never is in memory."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.endswith(b"\n"):
                    yield _record(path, number, line)
    except FileNotFoundError:
        raise DataError(f"no journal at {path}; a run writes one beside its checkpoints") from None
    except OSError as error:
        raise DataError(f"cannot read the journal {path}: {error.strerror}") from error


def _record(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise DataError(
            f"{path} line {number} is not JSON: {error}; remove the line, the run does not need it"
        ) from error
    if not isinstance(record, dict):
        raise DataError(f"{path} line {number} is not a JSON object; remove the line")
    return record


def _until(records: list[dict[str, Any]], step: int) -> list[dict[str, Any]]:
    first = next((n for n, each in enumerate(records) if each.get(STEP, step) > step), len(records))
    later = [each for each in records[first:] if each.get(STEP, step) <= step]
    return records[:first] + later


def _remove_torn_line(path: Path) -> None:
    if not path.exists():
        return
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end < len(data):
        os.truncate(path, end)


def _plain(value: Any) -> Any:
    """Return the value; every number that JSON cannot represent becomes None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
