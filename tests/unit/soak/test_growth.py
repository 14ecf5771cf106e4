"""The slope that the soak fits."""

from random import Random

from tests.soak.growth import Growth, Point, growth, settled


def fitted(points: list[Point]) -> Growth:
    """Fit what is measured of memory."""
    return growth(points, settled(points))


def test_a_slope_is_found_in_processes_of_different_size_and_none_where_nothing_grows() -> None:
    random = Random(0)

    def points(slope: float, process: int) -> list[tuple[int, float, float]]:
        begun = 100.0 * process
        return [
            (process, begun + x, 1000.0 * process + slope * x + random.gauss(0, 5))
            for x in range(0, 200, 2)
        ]

    grows = fitted([*points(1.5, 1), *points(1.5, 2)])
    assert abs(grows.slope - 1.5) < grows.margin < 0.1
    assert 1.3 < grows.surely < 1.5
    assert fitted([*points(0.0, 1), *points(0.0, 2)]).surely < 0.02
    assert fitted([(1, 0.0, 5.0)]).surely == 0.0


def test_a_process_that_waits_before_it_works_is_not_one_that_grows() -> None:
    """It is flat at 10 while it waits, and at 100 from the 60th second on, in two jumps."""
    values = [
        (1, float(x), 10.0 if x < 60 else 50.0 if x < 62 else 100.0) for x in range(0, 300, 2)
    ]
    assert fitted(values).slope == 0.0


def test_files_are_judged_once_the_memory_of_their_process_has_settled() -> None:
    """Two more files are a great part of all that a process gains, and no sign that it begins."""
    memory = [(1, float(x), 100.0 if x >= 20 else 10.0) for x in range(0, 300, 2)]
    files = [(1, x, 40.0 + 2 * (x > 200)) for _, x, _ in memory]
    found = growth(files, settled(memory))
    assert found.points == len([x for _, x, _ in memory if x >= 80])
    assert found.slope > 0
