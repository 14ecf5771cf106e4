"""How much of a run's time may go into answering requests. A value without a clock."""


class Allowance:
    """A server may take ``share`` of the time, of 1; what it does not use is not kept for later.

    What it used too much, because a batch is not broken off, it goes without later.
    """

    def __init__(self, share: float) -> None:
        self._per_second = share / (1.0 - share)
        self.seconds = 0.0

    def trained(self, seconds: float) -> None:
        """Note time that went into training."""
        self.seconds = min(self.seconds, 0.0) + self._per_second * seconds

    def answered(self, seconds: float) -> None:
        """Note time that went into answering."""
        self.seconds -= seconds
