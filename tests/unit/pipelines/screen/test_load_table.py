"""What a person sees of a load: while it runs, and what is to be known of its figures."""

import io
from dataclasses import replace

from rich.console import Console

from pipelines.loading.answer import Answer, Failure
from pipelines.loading.figures import figures
from pipelines.loading.load import Load
from pipelines.loading.running import Standing
from pipelines.screen.load_table import fault_lines, load_lines, load_table, load_view

GOOD = Answer(0.0, 0.0, 3.0, (1.0, 2.0, 3.0), prompt_tokens=8, output_tokens=3)


def printed(width: int, load: Load, *answers: Answer) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(load_table(load, figures(answers)))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_latencies_are_in_milliseconds_and_fit_a_terminal() -> None:
    shown = printed(80, Load(1, rate=2.5), GOOD)
    assert "1 request, 2.5 a second" in shown
    rows = {line.split("  ")[0].strip(): line.split() for line in shown.splitlines() if line}
    assert rows["to the first token"][-6:] == ["1000.0"] * 6
    assert rows["end to end"][-6:] == ["3000.0"] * 6
    assert max(map(len, shown.splitlines())) <= 80


def test_what_was_not_measured_is_a_dash() -> None:
    gone = replace(GOOD, tokens_at=(1.0,), left=True)
    shown = printed(100, Load(1, concurrency=1), gone)
    (row,) = (line for line in shown.splitlines() if "end to end" in line)
    assert row.split()[-6:] == ["-"] * 6


def test_lines_say_what_the_figures_rest_on() -> None:
    assert load_lines(figures([GOOD])) == [
        "1 of 1 request answered in 3.00 s: 0.33 requests/s",
        "tokens: 2.7/s in, 1.0/s out (3 in all, counted by the server)",
    ]
    several = figures([replace(GOOD, output_tokens=6, sent=0.2)])
    assert "2.0 tokens came with each event" in load_lines(several)[2]
    assert "sent up to 0.20 s late" in load_lines(several)[3]
    uncounted = figures([replace(GOOD, prompt_tokens=None, output_tokens=None)])
    assert load_lines(uncounted)[1] == (
        "tokens: not counted in, 1.0/s out (3 in all, counted by events)"
    )


def test_failures_are_one_line_a_kind() -> None:
    wrong = replace(GOOD, failure=Failure("refused", "too\nmany", 429))
    assert fault_lines(figures([GOOD, wrong, wrong])) == [
        "2 failed: refused with status 429: too many"
    ]


def test_the_progress_of_a_terminal_shows_what_runs_and_what_failed() -> None:
    file = io.StringIO()
    with load_view(Console(file=file, force_terminal=True, width=100), 9) as told:
        told(Standing(ended=4, failed=2, running=3, events=50, seconds=2.0))
    shown = file.getvalue()
    for words in ("4/9 requests", "3 running", "25 tokens/s", "2 failed"):
        assert words in shown


def test_nothing_is_shown_in_a_file() -> None:
    file = io.StringIO()
    with load_view(Console(file=file), 9) as told:
        told(Standing(4, 2, 3, 50, 2.0))
    assert not file.getvalue().strip()
