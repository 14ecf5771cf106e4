"""Programs of the machine, and packages fetched by them."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from moe.errors import DataError

_TIMEOUT_SECONDS = 900.0


def run_program(
    arguments: Sequence[str | Path], purpose: str, remedy: str, cwd: Path | None = None
) -> str:
    """Run a program and return its output; DataError gives the cause of a failure and the
    remedy.
    """
    words = [str(argument) for argument in arguments]
    try:
        return subprocess.run(
            words,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_TIMEOUT_SECONDS,
            check=True,
        ).stdout
    except FileNotFoundError:
        raise DataError(f"{purpose} needs {words[0]}, which is not installed; {remedy}") from None
    except subprocess.TimeoutExpired:
        raise DataError(
            f"{purpose}: {words[0]} did not finish in {_TIMEOUT_SECONDS:.0f} s; {remedy}"
        ) from None
    except subprocess.CalledProcessError as error:
        found = _complaint(error.stderr) or f"exit status {error.returncode}"
        raise DataError(f"{purpose} failed: {found}; {remedy}") from None


def pip_download(requirement: str, to: Path) -> Path:
    """Download one distribution, without its dependencies, and return the file."""
    purpose = f"downloading {requirement} with pip"
    options = ["--quiet", "--no-input", "--no-deps", "--disable-pip-version-check"]
    run_program(
        [sys.executable, "-m", "pip", "download", *options, "--dest", to, requirement],
        purpose,
        "check the connection to the package index and that this Python has pip",
    )
    files = sorted(path for path in to.iterdir() if path.is_file())
    if len(files) != 1:
        found = ", ".join(path.name for path in files) or "nothing"
        raise DataError(f"{purpose} should leave one file; found {found}; use an empty directory")
    return files[0]


def _complaint(stderr: str) -> str:
    """Return the line of an error output that names the fault, or else its last line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    marked = [line for line in lines if line.lower().startswith(("error:", "e:"))]
    return (marked or lines or [""])[-1]
