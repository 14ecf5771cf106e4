"""The layout as a value: what it refuses, its balance, its moves, its file."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe.errors import PlanError
from moe.planning.experts.expert_layout import (
    ExpertLayout,
    ExpertMove,
    from_dict,
    load_layout,
    moves,
    save_layout,
    to_dict,
)

TWO = ExpertLayout(layers=(3, 5), experts=(((0, 2), (1, 3)), ((0, 1), (2, 3))))


@st.composite
def layouts(draw: st.DrawFn, ranks: int = 3, experts: int = 4, layers: int = 2) -> ExpertLayout:
    """Any layout of given sizes; up to two copies more than experts, repeats too."""
    spare = draw(st.integers(0, 2))
    cuts = sorted(draw(st.lists(st.integers(1, 3), min_size=ranks - 1, max_size=ranks - 1)))
    rows = []
    for _ in range(layers):
        copies = draw(st.lists(st.integers(0, experts - 1), min_size=spare, max_size=spare))
        order = draw(st.permutations([*range(experts), *copies]))
        parts = (order[: cuts[0]], order[cuts[0] : cuts[1]], order[cuts[1] :])
        rows.append(tuple(tuple(sorted(part)) for part in parts))
    return ExpertLayout(tuple(range(layers)), tuple(rows))


def test_balance_counts_copies_as_shares() -> None:
    copied = ExpertLayout((0,), (((0, 1), (0, 2)),))
    assert copied.rank_loads([[8.0, 1.0, 3.0]]).tolist() == [[5.0, 7.0]]
    assert copied.imbalance([[8, 1, 3]]) == (7 / 6,)
    repeated = ExpertLayout((0,), (((0, 0), (0, 1)),))
    assert repeated.rank_loads([[9, 1]]).tolist() == [[6.0, 4.0]]


def test_balance_counts_speeds() -> None:
    assert TWO.imbalance([[4, 1, 4, 1], [4, 1, 4, 1]]) == (1.6, 1.0)
    assert TWO.imbalance([[4, 1, 4, 1], [4, 1, 4, 1]], speeds=[8, 2]) == pytest.approx((1.0, 2.5))
    assert TWO.imbalance(np.zeros((2, 4))) == (1.0, 1.0)


def test_experts_of_a_layer() -> None:
    assert TWO.of(5) == ((0, 1), (2, 3))
    assert (TWO.slots, TWO.expert_count) == ((2, 2), 4)
    with pytest.raises(
        PlanError, match=r"asked for layer 4 of an expert layout of layers \(3, 5\)"
    ):
        TWO.of(4)


def test_moves_come_from_the_rank_that_gives_up() -> None:
    new = ExpertLayout((3, 5), (((0, 1), (2, 3)), ((0, 1), (2, 3))))
    assert moves(TWO, new) == (ExpertMove(3, 1, 1, 0), ExpertMove(3, 2, 0, 1))
    assert moves(TWO, TWO) == ()


def test_a_copy_comes_from_a_holder_and_a_dropped_one_is_no_move() -> None:
    old = ExpertLayout((0,), (((0, 1), (0, 2)),))
    new = ExpertLayout((0,), (((0, 1), (1, 2)),))
    assert moves(old, new) == (ExpertMove(0, 1, 0, 1),)
    assert moves(new, old) == (ExpertMove(0, 0, 0, 1),)


@given(old=layouts(), new=layouts())
def test_moves_are_what_ranks_lack_and_nothing_else(old: ExpertLayout, new: ExpertLayout) -> None:
    listed = moves(old, new)
    for layer in old.layers:
        here = [move for move in listed if move.layer == layer]
        assert all(move.expert in old.of(layer)[move.source] for move in here)
        for rank, (before, after) in enumerate(zip(old.of(layer), new.of(layer), strict=True)):
            came = [move.expert for move in here if move.target == rank]
            assert sorted(came) == sorted(set(after) - set(before))


@given(layout=layouts())
def test_file_and_tables_give_it_back(
    layout: ExpertLayout, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("layout") / "layout.toml"
    save_layout(layout, path)
    assert load_layout(path) == layout
    assert from_dict(to_dict(layout)) == layout


@pytest.mark.parametrize(
    ("layers", "experts", "message"),
    [
        ((), (), "names 0 layers"),
        ((0, 1), (((0,),),), "names 2 layers and lists the experts of 1"),
        ((1, 0), (((0,),), ((0,),)), "ascending"),
        ((0, 0), (((0,),), ((0,),)), "list them once"),
        ((0, 1), (((0, 1), (2,)), ((0,), (1, 2))), r"layer 1 gives the ranks \(1, 2\)"),
        ((0,), (((1, 0),),), "not ascending"),
        ((0,), (((0, 2),),), "layer 0 has 2 experts from 0 to 2, the model has 0 to 2"),
        ((0,), (((-1, 0),),), "from -1 to 0"),
        ((0, 1), (((0, 1),), ((0, 2),)), "layer 1 has 2 experts from 0 to 2"),
        ((0, 1), (((0, 1),), ((0, 0),)), "layer 1 has 1 experts"),
        ((0,), ((),), "no rank with an expert"),
        ((0,), (((),),), "no rank with an expert"),
    ],
)
def test_what_is_no_layout(
    layers: tuple[int, ...], experts: tuple[tuple[tuple[int, ...], ...], ...], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        ExpertLayout(layers, experts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "layers is missing"),
        ("layers = 3", "layers is not a list of tables"),
        ("[[layers]]\nlayer = 0\nrank = [[0]]", "unknown key rank; did you mean ranks"),
        ("[[layers]]\nlayer = 0\nranks = 3", "layer 0: ranks is 3"),
        ("[[layers]]\nlayer = 0\nranks = [3]", "layer 0: ranks is 3"),
        ("[[layers]]\nlayer = 0.5\nranks = [[0]]", "layer is 0.5; expected a whole number"),
        ("[[layers]]\nlayer = 0\nranks = [[0, 0.5]]", "ranks is 0.5"),
    ],
)
def test_what_is_no_file_of_one(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "layout.toml"
    path.write_text(text)
    with pytest.raises(PlanError, match=message):
        load_layout(path)


def test_others_loads_and_layouts_are_refused() -> None:
    with pytest.raises(PlanError, match="2 layers and 4 experts, the load 2 and 3"):
        TWO.rank_loads(np.ones((2, 3)))
    with pytest.raises(PlanError, match="differ in their layers, ranks or experts"):
        moves(TWO, ExpertLayout((3,), (((0, 2), (1, 3)),)))
