"""What every table of a run file has in common."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A table of the run file: frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
