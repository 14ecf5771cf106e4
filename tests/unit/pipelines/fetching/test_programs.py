import sys
from pathlib import Path

import pytest

from moe.errors import DataError
from pipelines.fetching.programs import pip_download, run_program


def test_output_comes_back() -> None:
    assert run_program([sys.executable, "-c", "print('héllo')"], "greeting", "-") == "héllo\n"


def test_the_line_that_names_the_fault_is_shown() -> None:
    script = "import sys; sys.exit('ERROR: no such thing\\nsee the manual')"
    with pytest.raises(DataError, match=r"^greeting failed: ERROR: no such thing; be patient$"):
        run_program([sys.executable, "-c", script], "greeting", "be patient")


def test_a_missing_program_is_named() -> None:
    with pytest.raises(DataError, match=r"greeting needs no-such-program, .* install it"):
        run_program(["no-such-program"], "greeting", "install it")


def test_a_requirement_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"downloading .*no-such-file\.whl with pip failed"):
        pip_download(str(tmp_path / "no-such-file.whl"), tmp_path)
