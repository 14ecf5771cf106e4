"""The header of a safetensors file: which tensors it holds, and where. No torch.

The format is a length, a JSON header with the position of every tensor, then the bytes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moe.config.stand_ins import what_stands_for
from moe.errors import CheckpointError
from moe.storage import Location, RemotePath

_FIRST_READ = 2**17
"""Bytes that are read first; they usually contain the complete header."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor: the format's name of its dtype, its shape, and its byte range after the
    header.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """The tensors of a file by name, and the offset in the file where their bytes begin."""

    entries: Mapping[str, Entry]
    begin: int


def open_binary(path: Location) -> Any:
    """Open a file for random-access reading; a context manager."""
    return path.open_input() if isinstance(path, RemotePath) else path.open("rb")


def read_header(path: Location) -> Header:
    """Return the header of a file; CheckpointError if the file is missing or damaged."""
    try:
        with open_binary(path) as file:
            return header_of(path, file)
    except FileNotFoundError:
        raise missing(path) from None


def header_of(path: Location, file: Any) -> Header:
    """Return the header of an open file; raises if the file is shorter or longer than the header
    says.
    """
    try:
        size = file.seek(0, 2)
        header = _parse(file, size)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(path, error) from error
    end = header.begin + max((entry.end for entry in header.entries.values()), default=0)
    if end != size:
        raise damaged(path, f"its header asks for {end} bytes, it has {size}")
    return header


def cut_off(path: Location) -> list[str]:
    """Return the tensors that a truncated file has lost; all tensors if the header itself is
    lost.
    """
    try:
        with open_binary(path) as file:
            size = file.seek(0, 2)
            header = _parse(file, size)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    return sorted(name for name, entry in header.entries.items() if header.begin + entry.end > size)


def missing(path: Location) -> CheckpointError:
    """Return the error for a missing file that an index names."""
    return CheckpointError(
        what_stands_for(path) or f"{path} is missing though the index names it; copy it too"
    )


def damaged(path: Location, error: object) -> CheckpointError:
    """Return the error for a file that is not a complete safetensors file."""
    return CheckpointError(
        what_stands_for(path) or f"{path} is damaged or cut short: {error}; copy it again"
    )


def _parse(file: Any, size: int) -> Header:
    file.seek(0)
    raw = file.read(min(size, _FIRST_READ))
    length = int.from_bytes(raw[:8], "little")
    if not 0 < length <= size - 8:
        raise ValueError(f"its header should have {length} bytes, the file has {size}")
    if length > len(raw) - 8:
        raw += file.read(8 + length - len(raw))
    table: Mapping[str, Any] = json.loads(raw[8 : 8 + length])
    entries = {
        name: Entry(entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"])
        for name, entry in table.items()
        if name != "__metadata__"
    }
    return Header(entries, 8 + length)
