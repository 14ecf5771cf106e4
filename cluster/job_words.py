"""Words of jobs: where their code comes from, and how they failed. No Ray here."""

import re
from typing import Literal

Code = Literal["tree", "image"]
"""Where the code of a job comes from: this source tree, sent along, or what the cluster has."""

_ERROR = re.compile(r"^error: (.+)$", re.MULTILINE)
_ENOUGH = 300
"""Characters of a message that has no sentence of ours."""


def reason_of(message: str) -> str:
    """Return the sentence with which raymoe ended, from a message with the end of its log.

    Other messages are cut to their last line.
    """
    if said := _ERROR.findall(message):
        return str(said[-1]).strip()
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1][:_ENOUGH] if lines else ""
