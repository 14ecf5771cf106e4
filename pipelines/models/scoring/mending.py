"""What is done about ranks that are lost while they answer nobody's requests."""

import logging
from typing import Any

from moe.errors import DeadlineExceeded, RankLost, RaymoeError
from pipelines.serving.generation.engine import Engine
from pipelines.serving.generation.scheduler import MOST_LOSSES

LOST = (RankLost, DeadlineExceeded)
"""Errors after which ranks are lost, or do not work together any more."""

_LOG = logging.getLogger(__name__)


class Mending:
    """Replaces the lost ranks of an engine, at most three times in a row."""

    def __init__(self, engine: Engine[Any]) -> None:
        self._engine = engine
        self._losses = 0

    def went_well(self) -> None:
        """Note that a batch came back."""
        self._losses = 0

    def mend(self, error: RaymoeError) -> None:
        """Bring the ranks together again; raise what comes where that fails."""
        while True:
            self._losses += 1
            if self._losses > MOST_LOSSES:
                raise error
            _LOG.warning("%s; the lost ranks are replaced", error)
            try:
                self._engine.mend()
                return
            except LOST as another:
                error = another
