"""LangChain, which sends what agents send, against the server."""

import os
import subprocess
from pathlib import Path

from tests.serving import Server

SCRIPT = Path(__file__).with_name("agent.py")


def test_langchain_talks_fills_forms_and_uses_tools(server: Server, programs: Path) -> None:
    done = subprocess.run(
        [programs / "python", "-W", "ignore", SCRIPT, server.url],
        env=os.environ | {"LANGSMITH_TRACING": "false"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    server.rest()
