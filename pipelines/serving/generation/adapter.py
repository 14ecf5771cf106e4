"""An adapter as requests know it: by its name."""

from dataclasses import dataclass

from actors.commands import AdapterSource


@dataclass(frozen=True, slots=True)
class Adapter:
    """A name, and what the ranks have of it. One name may have other weights later."""

    name: str
    source: AdapterSource

    @property
    def number(self) -> int:
        """Its number on the ranks."""
        return self.source.number
