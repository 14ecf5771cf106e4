"""Bounds on the load of one server."""

from dataclasses import dataclass

from moe.config.answering import RUNNING
from moe.errors import ConfigError
from moe.planning.counts.workload import PASS_TOKENS

LEAST_BODY_BYTES = 4 * 2**20
BODY_BYTES_PER_TOKEN = 16


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the scheduler and of single requests.

    At most ``running`` generations run together, and ``waiting`` more queue; others are refused.
    ``request_seconds`` is the longest time from arrival to the last token. At most
    ``prefill_tokens`` of prompts go through the model at once. ``chat_tokens`` is the longest
    answer of a chat that sets no limit. ``idle_seconds`` pass between two health checks of an idle
    engine.
    """

    waiting: int = 64
    running: int = RUNNING
    request_seconds: float = 600.0
    prefill_tokens: int = PASS_TOKENS
    chat_tokens: int = 4096
    idle_seconds: float = 2.0

    @property
    def held(self) -> int:
        """The most generations that a server holds."""
        return self.waiting + self.running

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise ConfigError(
                    f"the limit {name} is {getattr(self, name)}; it must be greater than 0"
                )


def body_bytes(context: int) -> int:
    """Return the largest body to read, in bytes, for a model with a context of ``context`` tokens.

    A token takes about 5 bytes of JSON, so this holds the longest prompt several times.
    """
    return max(LEAST_BODY_BYTES, context * BODY_BYTES_PER_TOKEN)
