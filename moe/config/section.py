"""The base of every table in a run file or deployment file."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

LocalPath = Annotated[Path, Field(strict=False)]
"""A path, which TOML and JSON write as text."""


class Section(BaseModel):
    """A table of a file: frozen, closed to unknown keys, and strict about types.

    Text is not converted to a number and true not to 1; an integer is accepted for a float.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)
