"""What a job says of its failure, as one sentence."""

import re

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
