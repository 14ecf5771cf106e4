"""The token that a Ray cluster may ask for. No Ray here: it reads the mode when it is imported."""

import os
from pathlib import Path

TOKEN = Path("~/.ray/auth_token")
"""Where Ray keeps the token of the clusters that it starts on this machine."""


def show_token() -> None:
    """Have Ray show its token to the cluster that is joined, if one is at hand.

    To be called before Ray is imported. A Ray that ``raymoe train`` starts asks for the token in
    the home directory, and Ray's client shows it only where RAY_AUTH_MODE says so. A cluster that
    asks for none takes one as well. What the environment says already is kept.
    """
    given = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if "RAY_AUTH_MODE" not in os.environ and (given or TOKEN.expanduser().is_file()):
        os.environ["RAY_AUTH_MODE"] = "token"
