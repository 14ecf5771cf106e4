"""A file that a command writes: checked before the work, and told after it."""

import os
from dataclasses import dataclass
from pathlib import Path

from moe.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Output:
    """Where a command writes, and whether a file was there before."""

    path: Path
    replaces: bool

    @property
    def told(self) -> str:
        """What a person reads once it is written; a file that was there is not lost silently."""
        return f"{'replaced' if self.replaces else 'wrote'} {self.path}"


def output(option: str, path: Path) -> Output:
    """Return the output of an option; ConfigError where nothing could be written there."""
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir():
        raise ConfigError(f"{option} is {path}; name a file in a directory that exists")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise ConfigError(f"{option} is {path}, which may not be written; choose another file")
    return Output(path, path.exists())
