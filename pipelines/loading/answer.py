"""How one request went: its moments, its tokens, its end."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request was not answered; ``status`` is that of HTTP, if there was one."""

    kind: str
    message: str
    status: int | None = None

    @property
    def name(self) -> str:
        """The kind and the status, by which failures are counted."""
        return self.kind if self.status is None else f"{self.kind} with status {self.status}"


@dataclass(frozen=True, slots=True)
class Answer:
    """One request; its moments are seconds since the load began.

    ``due`` is when it was to be sent, ``tokens_at`` when each event with a token arrived. A client
    that ``left`` closed its connection in mid-stream, as it was asked to. Tokens are None where the
    server did not count them.
    """

    due: float
    sent: float
    ended: float
    tokens_at: tuple[float, ...] = ()
    text: str = ""
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    left: bool = False
    failure: Failure | None = None

    @property
    def first_token(self) -> float:
        """Seconds to the first token, from when the request was due."""
        return self.tokens_at[0] - self.due

    @property
    def whole(self) -> float:
        """Seconds to the end."""
        return self.ended - self.due

    @property
    def gaps(self) -> list[float]:
        """Seconds between the arrivals of tokens."""
        pairs = zip(self.tokens_at, self.tokens_at[1:], strict=False)
        return [after - before for before, after in pairs]
