"""`raymoe place`, as a person types it."""

from pathlib import Path

from cluster.journal import Journal
from moe.planning.experts.placement import load_placement
from moe.planning.plan.file import load_plan, save_plan
from moe.planning.search.make import make_plan
from tests import plans
from tests.shell import MOE, SMALL, WORK, Shell


def measured(path: Path, load: list[int], layers: int) -> Path:
    """Write the journal of a run of twenty steps with this load in every layer."""
    with Journal(path) as journal:
        for step in range(20):
            table = {str(layer): {"load": load} for layer in range(layers)}
            journal.append({"step": step, "layers": table})
    return path


def test_experts_are_placed_by_measured_load(shell: Shell) -> None:
    config = plans.with_experts(SMALL, 6)
    load = [60, 50, 10, 10, 10, 10]
    journal = measured(shell.path / "run.jsonl", load, 6)
    old, new = shell.path / "plan.toml", shell.path / "new.toml"
    save_plan(make_plan(config, plans.inventory(4), 2, 2, WORK), old)
    words = ("place", "--journal", journal, "--plan", old, "--to", new)
    out, _ = shell.run(*words, "--model", shell.model(config))
    plan = load_plan(new)
    for share in map(plan.share, plan.seats):
        for layer in share.layer_numbers:
            held = share.experts_of(layer)
            assert len(held) == 3
            assert sum(load[expert] for expert in held) in (70, 80)
    assert "1.600 before, 1.067 after" in out
    expert = 3 * config.hidden_size * config.ffn_size * 4 * 3
    assert f"12 experts to move, {12 * expert / 1e9:.3g} GB" in out
    again, _ = shell.run(*words[:4], new, "--to", shell.path / "third.toml")
    assert "nothing to move" in again
    assert load_plan(shell.path / "third.toml") == plan
    kept, _ = shell.run(*words, "--threshold", 0.5)
    assert "nothing to move" in kept
    assert load_plan(new) == load_plan(old)


def test_copies_of_hot_experts_for_serving(shell: Shell) -> None:
    config = plans.with_experts(SMALL, 6)
    journal = measured(shell.path / "run.jsonl", [100, 10, 10, 10, 10, 10], 6)
    plan, to = shell.path / "plan.toml", shell.path / "placement.toml"
    save_plan(make_plan(config, plans.inventory(2), 1, 2, WORK), plan)
    words = ("place", "--journal", journal, "--plan", plan, "--to", to, "--spare-slots")
    shell.run(*words, 1)
    placement = load_placement(to)
    assert placement.layers == tuple(range(6))
    assert placement.slots == (4, 4)
    assert all(0 in held for layer in placement.experts for held in layer)
    assert "--spare-slots is 0" in shell.refused(*words, 0)


def test_a_journal_of_another_run_is_refused(shell: Shell) -> None:
    plan = shell.path / "plan.toml"
    save_plan(make_plan(MOE, plans.inventory(2), 1, 2, WORK), plan)
    words = ("place", "--plan", plan, "--to", shell.path / "x", "--journal")
    other = measured(shell.path / "other.jsonl", [1] * 5, 6)
    assert "of one run" in shell.refused(*words, other)
    deeper = measured(shell.path / "deeper.jsonl", [1] * 4, 7)
    assert "of one run" in shell.refused(*words, deeper)
    assert "layers = 6" in shell.refused(
        *words, other, "--model", shell.model(plans.with_experts(plans.SMOLLM2, 4))
    )
