"""Draws the picture of a report: ``python -m docs.images.report RUN``; needs Chromium.

RUN is the directory of a run, such as the one that `make demo` leaves.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from pipelines.reporting.recorded import read_run
from pipelines.screen.report.page import write_report

PICTURE = Path(__file__).with_name("report.png")
SIZE = 1280, 1500
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")


def photograph(page: Path, to: Path) -> None:
    """Write the upper part of a page, as a wide window shows it."""
    window = f"--window-size={SIZE[0]},{SIZE[1]}"
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = ["chromium", *FLAGS, profile, window, f"--screenshot={to}", page.as_uri()]
    subprocess.run(command, check=True, timeout=120, capture_output=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        drawn = Path(folder) / "report.html"
        write_report(drawn, [read_run(Path(sys.argv[1]))])
        photograph(drawn, PICTURE)
