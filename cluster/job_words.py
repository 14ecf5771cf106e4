"""Words of jobs: where their code comes from, and how they failed. No Ray here."""

import re
from typing import Literal

Code = Literal["tree", "image"]
"""Where the code of a job comes from: this source tree, sent along, or what the cluster has."""

_ERROR = re.compile(r"^error: (.+)$", re.MULTILINE)
_OF_RAY = re.compile(r"^Running entrypoint for job |\bINFO job_manager\.py:")
_ENOUGH = 300
"""Characters of a message that has no sentence of ours."""


def reason_of(message: str) -> str:
    """Return the sentence with which raymoe ended, from a message with the end of its log.

    Other messages are cut to their last line. What Ray itself writes of a job does not count: it
    may come after the job's own words.
    """
    if said := _ERROR.findall(message):
        return str(said[-1]).strip()
    told = (line.strip() for line in message.splitlines())
    lines = [line for line in told if line and not _OF_RAY.search(line)]
    return lines[-1][:_ENOUGH] if lines else ""
