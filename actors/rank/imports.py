"""What the process of a rank imports before it is needed, so that a warm process has it.

torch imports some of itself at the first call that wants it. The first step of a replacement would
wait for that, and all other ranks with it.
"""

from importlib import import_module

LATE = ("torch.fx.experimental.symbolic_shapes",)
"""Imported in the first backward pass that is given a gradient: half a second."""


def import_late() -> None:
    """Import what torch would import in the first step."""
    for name in LATE:
        import_module(name)
