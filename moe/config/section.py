"""What every table of a run file or of a deployment file has in common."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

LocalPath = Annotated[Path, Field(strict=False)]
"""A path, which TOML and JSON write as text."""


class Section(BaseModel):
    """A table of a file: frozen, closed to unknown keys, and strict about types.

    Text is no number and true is not 1; only a whole number may stand for a fraction.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)
