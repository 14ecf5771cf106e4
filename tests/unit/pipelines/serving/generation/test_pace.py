"""Parts of long prompts beside sequences that generate: as many tokens as the time allows."""

from pipelines.serving.generation.pace import STRETCH, Pace


def test_all_go_in_where_nobody_generates_or_nothing_is_known() -> None:
    pace = Pace(512)
    assert pace.tokens(0) == pace.tokens(4) == 512
    pace.took(0.1, 0, 4)
    assert pace.tokens(4) == 512
    pace.took(1.0, 500, 0)
    assert pace.tokens(0) == 512


def test_the_time_of_a_batch_is_stretched_and_no_more() -> None:
    pace = Pace(512)
    pace.took(0.05, 0, 1)
    pace.took(0.2, 0, 16)
    pace.took(1.0, 500, 0)
    for rows, alone in ((1, 0.05), (3, 0.05), (16, 0.2), (31, 0.2)):
        tokens = pace.tokens(rows)
        assert alone + tokens * 0.002 <= STRETCH * alone
        assert alone + (tokens + 1) * 0.002 > STRETCH * alone


def test_a_prompt_goes_on_however_slow() -> None:
    pace = Pace(512)
    pace.took(0.001, 0, 1)
    pace.took(10.0, 10, 0)
    assert pace.tokens(1) == 16
