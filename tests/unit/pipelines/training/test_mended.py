"""The lines about a loss: one for the loss, one for how the run goes on."""

from dataclasses import replace

import pytest

from actors.engine.healing import Healed
from moe.errors import RankDied
from pipelines.training.mended import Lost, Mended

HEALED = Mended.of(Healed(4, (1,), "copies", {"seen": 0.5, "joined": 1.0}), 6, "rank 1 died")


def test_what_ray_says_of_a_loss_is_told_in_one_line() -> None:
    error = RankDied("rank 1 died during step 5: The actor died.\n\tclass_name: RankActor\n")
    line = "loss after step 5: rank 1 died during step 5: The actor died"
    assert Lost.of(5, error).line == line


@pytest.mark.parametrize(
    ("mended", "line"),
    [
        (
            HEALED,
            "healed with new processes for rank 1 only in 1.5 s; training goes on from step 4, "
            "2 steps are done again",
        ),
        (
            replace(HEALED, replaced=(1, 3), lost_step=5),
            "healed with new processes for ranks 1, 3 only in 1.5 s; training goes on from step 4, "
            "1 step is done again",
        ),
        (
            replace(HEALED, replaced=(), lost_step=4),
            "mended with all processes kept in 1.5 s; training goes on from step 4, "
            "no step is done again",
        ),
        (
            replace(HEALED, replaced=(), replanned=True, reason="no room: fewer replicas"),
            "replanned over what is left (no room: fewer replicas) in 1.5 s; training goes on from "
            "step 4, 2 steps are done again",
        ),
        (
            replace(HEALED, replaced=(), restored=True, reason="both lost"),
            "restored with new processes for all ranks (both lost) in 1.5 s; training goes on from "
            "step 4, 2 steps are done again",
        ),
    ],
)
def test_how_a_run_goes_on_is_told_in_one_line(mended: Mended, line: str) -> None:
    assert mended.line == line
