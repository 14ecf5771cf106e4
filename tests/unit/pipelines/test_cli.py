"""How the command ends: quietly at Ctrl-C, and with one line for what a library raises."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
INTERRUPTED = 130

WHILE_IMPORTING = """
import sys, time
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            print("importing", flush=True)
            time.sleep(60)
sys.meta_path.insert(0, Slow())
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored under nohup, and inherited
from pipelines.cli import main
main()
"""

RAISING = """
import sys, typer
import pipelines.commands.app as cli
from pipelines.cli import main
@cli.app.command()
def fail(how: str) -> None:
    if how == "library":
        raise ValueError("first line\\n  \\n last line \\n")
    if how == "nothing":
        raise LookupError
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt as error:
        raise ImportError("cannot import a part of me") from error
main()
"""


def started(code: str, *words: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    with process:
        _, said = process.communicate(timeout=60)
    return process.returncode, said


def test_an_interrupt_while_python_imports_ends_quietly() -> None:
    process = started(WHILE_IMPORTING)
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert ended(process) == (INTERRUPTED, "")
    assert time.monotonic() - began < 30


def test_an_import_that_an_interrupt_broke_ends_quietly() -> None:
    assert ended(started(RAISING, "fail", "interrupted")) == (INTERRUPTED, "")


@pytest.mark.parametrize(
    ("how", "said"), [("library", "ValueError: last line"), ("nothing", "LookupError")]
)
def test_what_a_library_raises_is_one_line_and_its_traceback_on_request(
    how: str, said: str
) -> None:
    code, line = ended(started(RAISING, "fail", how))
    assert code == 1
    assert line.startswith(f"error: {said} (raymoe did not expect this; set RAYMOE_TRACEBACK=1 to ")
    assert line.count("\n") == 1
    code, lines = ended(started(RAISING, "fail", how, RAYMOE_TRACEBACK="1"))
    assert code == 1
    assert "Traceback" in lines
    assert said.partition(":")[0] in lines
