"""``raymoe report``: what it writes and what it refuses."""

from tests import journals
from tests.shell import Shell


def test_a_page_and_an_event_file_are_written_and_told(shell: Shell) -> None:
    run = journals.written(shell.path / "demo", journals.eventful())
    page, events = shell.path / "report.html", shell.path / "events"
    said, _ = shell.run("report", run, "--to", page, "--tensorboard", events)
    assert f"wrote {page}" in said
    assert f"wrote 40 steps to {events}" in said
    assert "<h1>Run demo</h1>" in page.read_text()
    assert len([*events.iterdir()]) == 1
    said, _ = shell.run("report", run, "--to", page)
    assert f"replaced {page}" in said


def test_what_cannot_be_is_refused(shell: Shell) -> None:
    run = journals.written(shell.path / "demo", journals.eventful(2))
    page = ("--to", shell.path / "report.html")
    assert "has no effect without --follow" in shell.refused("report", run, *page, "--every", 3)
    assert "export one run" in shell.refused("report", run, run, *page, "--wandb", "x")
    assert "no directory of a run" in shell.refused("report", shell.path, *page)
    assert "name a file" in shell.refused("report", run, "--to", shell.path)
    assert not (shell.path / "report.html").exists()
