"""Who may ask a server."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Access:
    """Web pages of ``origins`` (``*`` is any page), and who has one of ``keys``, if there are any.

    ``request_ids`` is False where a proxy in front gives requests their ids. With
    ``loads_adapters``, whoever may ask may also load and drop adapters.
    """

    origins: Sequence[str] = ("*",)
    keys: Sequence[str] = field(default=(), repr=False)
    request_ids: bool = True
    loads_adapters: bool = False
