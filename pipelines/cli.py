"""Where the command begins: it ends quietly at Ctrl-C and says in one line what went wrong."""

import os
import signal
import sys
from types import FrameType

from cluster.token import show_token
from moe.errors import RaymoeError

TRACEBACK = "RAYMOE_TRACEBACK"
"""Environment variable: set to anything, errors come with their traceback."""

INTERRUPTED = 128 + signal.SIGINT
"""Exit code of a command that Ctrl-C ended, as shells count it."""


def main() -> None:
    """Run the command line. Errors are one line; the traceback is behind ``RAYMOE_TRACEBACK``."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)  # while Python imports, nothing needs cleaning up
    show_token()
    from pipelines.commands.app import app

    signal.signal(signal.SIGINT, before)
    _configure_logging()
    try:
        app()
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        if _interrupted(error):
            sys.exit(INTERRUPTED)
        _print(_told(error))
        sys.exit(1)


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


def _configure_logging() -> None:
    import logging

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")


def _interrupted(error: BaseException) -> bool:
    """Tell whether Ctrl-C is behind an error that a library raised, as imports of some do."""
    before = None if isinstance(error, RaymoeError) else error.__cause__ or error.__context__
    return before is not None and (isinstance(before, KeyboardInterrupt) or _interrupted(before))


def _told(error: Exception) -> str:
    """Return what a person should read of an error."""
    if isinstance(error, RaymoeError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the system'}: {error.strerror}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__
    return f"{said} (raymoe did not expect this; set {TRACEBACK}=1 to see where it comes from)"


def _print(message: str) -> None:
    from rich.console import Console
    from rich.text import Text

    line = Text.assemble(("error: ", "bold red"), message)
    Console(stderr=True).print(line, soft_wrap=True)


if __name__ == "__main__":
    main()
