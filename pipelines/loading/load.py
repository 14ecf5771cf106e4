"""When requests are sent, how many there are, and which of their clients go away."""

from dataclasses import dataclass

import numpy as np

from moe.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Load:
    """A number of requests: in a closed loop, or in an open one.

    Closed: ``concurrency`` clients send their next request when the last is answered. Open:
    ``rate`` requests a second arrive on average, as independent users do (a Poisson process),
    however long answers take. ``leave`` is the share of clients that go away in mid-stream.
    """

    requests: int
    concurrency: int | None = None
    rate: float | None = None
    leave: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.concurrency is None) == (self.rate is None):
            raise ConfigError(
                "requests come in a closed loop (--concurrency N) or in an open one (--rate R); "
                "give one of them"
            )
        for option, value in (("--requests", self.requests), ("--concurrency", self.concurrency)):
            if value is not None and value < 1:
                raise ConfigError(f"{option} is {value}; give a whole number above 0")
        if self.rate is not None and not 0 < self.rate < np.inf:
            raise ConfigError(f"--rate is {self.rate:g}; give requests a second, above 0")
        if not 0 <= self.leave <= 1:
            raise ConfigError(f"--leave is {self.leave:g}; give a share between 0 and 1")

    def arrivals(self) -> list[float] | None:
        """Return the seconds at which requests arrive, from the first one on; None if closed."""
        if self.rate is None:
            return None
        waits = np.random.default_rng(self.seed).exponential(1 / self.rate, self.requests)
        return [float(moment) for moment in np.cumsum(waits) - waits[0]]

    def leaving(self, tokens: int) -> list[int | None]:
        """Return after how many of its ``tokens`` each client goes away; None where it stays."""
        generator = np.random.default_rng((self.seed, 1))
        goes = generator.random(self.requests) < self.leave
        after = generator.integers(1, max(tokens, 2), size=self.requests)
        return [int(count) if go else None for go, count in zip(goes, after, strict=True)]
