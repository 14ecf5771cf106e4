"""The description of the API, tried by schemathesis: no answer leaves it, no request breaks it."""

import os
import subprocess
from pathlib import Path

from tests.serving import Server, get

SECONDS = 600
HOOKS = Path(__file__).parent
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
)
"""Not whether all that breaks the description is refused: empty unknown options pass."""


def test_answers_are_as_described(server: Server, programs: Path) -> None:
    command = [programs / "schemathesis", "run", f"{server.url}/openapi.json", "--seed", "1"]
    command += ["--checks", ",".join(CHECKS), "--max-examples", "40", "--no-shrink"]
    command += ["--request-timeout", "60"]
    command += ["--phases", "examples,coverage,fuzzing", "--warnings", "off", "--no-color"]
    done = subprocess.run(
        command,
        env=os.environ | {"SCHEMATHESIS_HOOKS": "sensible", "PYTHONPATH": str(HOOKS)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert get(server, "/health")[0] == 200
