"""`raymoe plan`, as a person types it."""

import json
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from moe.config.presets import preset
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import Inventory
from moe.planning.devices.inventory_file import save_profile
from moe.planning.devices.links import Link
from moe.planning.devices.pace import Measured, Profile
from moe.planning.devices.rates import Rates
from moe.planning.moves.difference import diff
from moe.planning.moves.seating import seated_by_device
from moe.planning.plan.file import load_plan
from moe.planning.plan.other_systems import read_megatron
from moe.planning.prediction.predict import predict, rank_bytes_of
from moe.planning.search.pins import Pins
from moe.planning.search.search import Candidate, Found, Question, search
from moe.planning.search.shapes import Shape
from moe.sizes import size_text
from pipelines.planning.capacity import tokens_held
from pipelines.screen.comparison import alternatives_table
from pipelines.screen.words import count
from tests import plans, tiny
from tests.shell import MOE, SMALL, WORK, Shell


def test_with_nothing_pinned_the_search_decides(shell: Shell) -> None:
    config, there = plans.SMOLLM2, plans.inventory(2)
    to = shell.path / "plan.toml"
    words = ("plan", shell.model(config), "--inventory", shell.inventory(there), "--to", to)
    out, _ = shell.run(*words)
    found = search(Question(config, there, WORK, 8, Pins(replicas=1, micro_batch=1)))
    assert load_plan(to) == found.plan
    for each in found.alternatives:
        assert f"{each.seconds:.4g} {each.seconds / found.best.seconds:.3f}" in out
    assert ("no other number of stages" in out) == (not found.alternatives)
    out, _ = shell.run(*words, "--stages", 2, "--pin", "gang=1", "--pin", "layers=12,18")
    assert [stage.layers for stage in load_plan(to).stages] == [(0, 12), (12, 30)]
    assert "over best" not in out
    assert "no other number" not in out


@pytest.mark.parametrize(
    ("objective", "row"),
    [
        ("step", "6 1 1 1 4 5x4 6, recompute 2 0x5 3.5 1.250 62.5%"),
        ("tokens", "6 1 1 1 4 5x4 6, recompute 2 0x5 500 0.500 3.5 62.5%"),
        ("memory", "6 1 1 1 4 5x4 6, recompute 2 0x5 62.5% 1.250 3.5"),
    ],
)
def test_alternatives_stand_beside_the_plan(objective: str, row: str) -> None:
    """Each with its shape, layers, what it was judged by, and that over the best."""
    values = {"step": (2.8, 3.5), "tokens": (-1000.0, -500.0), "memory": (0.5, 0.625)}[objective]
    layers, again = (4, 5, 5, 5, 5, 6), (2, 0, 0, 0, 0, 0)
    best = Candidate(Shape(1, 1, 1, 1), values[0], 2.8, (30,), (0,), 0.5)
    other = Candidate(Shape(1, 1, 6, 1), values[1], 3.5, layers, again, 0.625)
    table = alternatives_table(Found(plans.single(SMALL), WORK, best, (other,)), objective)
    console = Console(width=80, file=StringIO(), color_system=None)
    console.print(table)
    assert isinstance(console.file, StringIO)
    assert row in [" ".join(line.split()) for line in console.file.getvalue().splitlines()]
    assert alternatives_table(Found(plans.single(SMALL), WORK, best, ()), objective) is None


def test_a_plan_without_rivals_says_so(shell: Shell) -> None:
    there = shell.inventory(plans.inventory(1))
    words = ("plan", shell.model(MOE), "--inventory", there, "--to", shell.path / "plan.toml")
    assert "no other number of stages" in shell.run(*words)[0]


def test_a_preset_is_a_model_and_an_unknown_one_is_named(shell: Shell) -> None:
    there = shell.inventory(plans.inventory(2))
    config = preset("dense").config
    directory = shell.model(config)
    made = []
    for model in ("dense", directory):
        to = shell.path / "plan.toml"
        shell.run("plan", model, "--inventory", there, "--to", to)
        made.append(to.read_text())
    assert made[0] == made[1]
    words = ("--inventory", there, "--to", "x")
    assert "did you mean dense?" in shell.refused("plan", "dens", *words)
    empty = shell.path / "empty"
    empty.mkdir()
    assert "config.json is missing" in shell.refused("plan", empty, *words)
    (empty / "config.json").write_text("[]")
    assert "holds no JSON object" in shell.refused("plan", empty, *words)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("--stages 3 --pin stages=2", "--stages gives stages = 3, --pin gives stages = 2"),
        ("--micro-batch 2 --pin micro_batch=1", "--micro-batch gives micro_batch = 2"),
        ("--layout Et*3|t*3L --pin layers=2,4", "--layout gives layers = 3,3"),
        ("--layout Et*3|t*3L --stages 3", "layers 2, stages 3"),
        ("--layout Et*9L", "model's layers are 6"),
        ("--pin stags=2", "did you mean stages?"),
        ("--any-replicas --pin replicas=2", "--any-replicas searches what --pin replicas=2 fixes"),
        ("--sequences 8 --micro-batches 8", "give one of them"),
        ("--sequences 8 --micro-batch 3", "make --micro-batch a divisor"),
        ("--sequences 0", "--sequences is 0"),
        ("--objective tokens", "add --serving"),
        ("--objective stp", "--objective is 'stp'; did you mean step?"),
        ("--numerics bf17", "--numerics is 'bf17'; did you mean bf16?"),
        ("--schedule zbv", "zbv needs 2 spans of layers a stage, folded to a V"),
        ("--chunks 2", "1f1b needs one span of layers a stage"),
        ("--schedule zbx", "--schedule is 'zbx'; did you mean zbv?"),
        ("--schedule zbv --chunks 2 --stages 1", "there is one stage; raise --stages"),
        ("--schedule zbv --chunks 2", "the best pipeline has one stage"),
        ("--schedule zbv --chunks 2 --stages 2 --pin layers=2,4", "layers are pinned to [2, 4]"),
        ("--schedule zero-bubble --layout Et*3|t*3L", "leave the pin out"),
        ("--schedule zero-bubble --objective memory", "--objective memory can be searched under"),
        ("--schedule zbv --chunks 2 --serving", "are for training, because a served token"),
        ("--serving --schedule gpipe", "--schedule gpipe and --chunks 1 are for training"),
        ("--schedule zero-bubble --stages 3 --micro-batches 7", "micro-batches to a multiple of 3"),
        ("--schedule zbv --chunks 2 --stages 3 --emit vllm", "vllm takes only one"),
        ("--emit vlm", "--emit is 'vlm'; did you mean vllm?"),
        ("--ray", "give one of --inventory FILE, --ray"),
        ("--context here", "--context here is for --kubernetes"),
        ("--profile nowhere.toml", "no profile at nowhere.toml"),
        ("--imbalance 0.5", "--imbalance is 0.5; give the load"),
        ("--imbalance nan", "--imbalance is nan"),
        ("--sequence-length 0", "--sequence-length is 0; give at least 1"),
        ("--sequence-length 9000", "is 9000 but the model has 8192 positions"),
        ("--micro-batches 1000000", "--micro-batches 1000000 is up to 1,000,000 micro-batches"),
        ("--sequences 1000000", "at most 10,000 are simulated"),
        ("--threads 2", "--threads 2 has no effect with --inventory"),
        ("--address auto", "--address auto is for --ray"),
        ("--gang 0", "--gang is 0; give at least 1"),
        ("--chunks 0", "--chunks is 0; give at least 1"),
        ("--html nowhere/plan.html", "--html is nowhere/plan.html; name a file in a directory"),
    ],
)
def test_options_that_contradict_are_refused(shell: Shell, words: str, why: str) -> None:
    there = shell.inventory(plans.inventory(3))
    given = (
        "plan",
        shell.model(MOE),
        "--inventory",
        there,
        "--to",
        shell.path / "p",
        *words.split(),
    )
    assert why in shell.refused(*given)


def test_a_plan_is_printed_and_kept_only_where_asked(shell: Shell) -> None:
    """A file that was there is replaced, and the output says so."""
    words = ("plan", shell.model(MOE), "--inventory", shell.inventory(plans.inventory(2)))
    before = set(shell.path.iterdir())
    out, _ = shell.run(*words)
    assert "step of 8 micro-batches" in out
    assert "wrote" not in out
    assert set(shell.path.iterdir()) == before
    to = shell.path / "plan.toml"
    assert "wrote /" in shell.run(*words, "--to", to)[0]
    out, _ = shell.run(*words, "--to", to)
    assert "replaced /" in out
    assert "wrote" not in out
    assert "name a file in a directory" in shell.refused(*words, "--to", shell.path)


@pytest.mark.parametrize(
    ("kind", "advice"), [("A100-80GB", "did you mean A100-80G?"), ("Z9000", "known: T4")]
)
def test_a_kind_that_nobody_knows_needs_a_profile(shell: Shell, kind: str, advice: str) -> None:
    there = shell.inventory(plans.inventory(2, kind=kind))
    for command in (("plan", shell.model(MOE)), ("advise", shell.model(MOE, "again"))):
        words = (*command, "--inventory", there)
        said = shell.refused(*words)
        assert f"device a/0 is of kind '{kind}', which is unknown ({advice}" in said
        profile = shell.path / "profile.toml"
        save_profile([Profile(kind, 1, Rates(1e12, 1e11), (), "measured here")], [], profile)
        assert "measured here" in shell.run(*words, "--profile", profile)[0]


def test_emit_prints_the_value_alone(shell: Shell) -> None:
    words = ("plan", shell.model(MOE), "--inventory", shell.inventory(plans.inventory(2)))
    out, err = shell.run(*words, "--layout", "Et*2|t*4L", "--emit", "megatron")
    assert read_megatron(out, 6) == ((0, 2), (2, 6))
    assert err == "--pipeline-model-parallel-layout\n"
    assert shell.run(*words, "--pin", "layers=1,5", "--emit", "vllm")[0] == "1,5"
    to = shell.path / "plan.toml"
    out, _ = shell.run(*words, "--pin", "layers=1,5", "--emit", "llama.cpp", "--to", to)
    assert out == "1,6"
    assert load_plan(to).stages[1].layers == (1, 6)


def test_a_plan_of_several_runs_is_made_shown_and_said(shell: Shell) -> None:
    there, to, html = plans.inventory(3), shell.path / "plan.toml", shell.path / "plan.html"
    words = ("plan", shell.model(SMALL), "--inventory", shell.inventory(there), "--stages", 3)
    words += ("--gang", 1, "--to", to)
    out, _ = shell.run(*words, "--schedule", "zbv", "--chunks", 2, "--html", html)
    folded = load_plan(to)
    assert (folded.chunks, folded.folded, len(folded.stages)) == (2, True, 3)
    work = Workload(512, 1, 8, schedule="zbv")
    step = predict(SMALL, folded, there, work).step_seconds
    assert f"step of 8 micro-batches of 1 x 512 tokens: {step:.3g} s" in out
    assert "3 stages x 1 rank, 2 spans of layers each, folded" in out
    assert "layers were moved between stages while the step under zbv became shorter" in out
    assert "2 spans of layers a stage" in html.read_text(encoding="utf-8")
    looped = (*words, "--schedule", "zero-bubble", "--chunks", 2, "--micro-batches", 6)
    out, err = shell.run(*looped, "--emit", "megatron")
    parts = read_megatron(out, 6)
    assert err.startswith(
        "--pipeline-model-parallel-layout with --pipeline-model-parallel-size 3\nreplaced /"
    )
    assert parts == load_plan(to).chunk_spans
    assert len(parts) == 6


def test_near_an_old_plan_it_says_what_a_resize_would_send(shell: Shell) -> None:
    """A device that is gone leaves bytes that only a checkpoint has."""
    there, old = plans.inventory(3), shell.path / "old.toml"
    words = ("plan", shell.model(SMALL), "--stages", 2, "--gang", 1, "--inventory")
    shell.run(*words, shell.inventory(there), "--to", old)
    left = Inventory(there.devices[1:])
    to = shell.path / "plan.toml"
    out, _ = shell.run(*words, shell.inventory(left), "--to", to, "--near", old)
    before, after = load_plan(old), load_plan(to)
    moved = diff(SMALL, before, after, WORK, seated_by_device(before, after, left))
    lost = sum(move.size for move in moved.lost)
    ranks = count(len(moved.received), "device")
    assert lost > 0
    assert f"from the plan of --near, {size_text(moved.bytes)} move to {ranks}: " in out
    assert f"; {size_text(lost)} of it from a checkpoint" in out
    out, _ = shell.run(*words, shell.inventory(there), "--to", to, "--near", old)
    assert f"from the plan of --near, {size_text(0)} move to 0 devices" in out
    assert "from a checkpoint" not in out


def test_one_replica_unless_asked(shell: Shell) -> None:
    """Small models gain from replicas most, so that not having them is a decision."""
    there = shell.inventory(plans.inventory(4))
    words = ("plan", shell.model(SMALL), "--inventory", there, "--to", shell.path / "plan.toml")
    shell.run(*words)
    assert load_plan(shell.path / "plan.toml").replicas == 1
    out, _ = shell.run(*words, "--any-replicas")
    many = load_plan(shell.path / "plan.toml").replicas
    assert many > 1
    assert f"training runs all {many} replicas; serving takes one" in out
    shell.run(*words, "--pin", "replicas=2", "--stages", 2)
    assert load_plan(shell.path / "plan.toml").replicas == 2


def test_the_size_of_a_micro_batch_is_searched_for_a_given_number_of_sequences(
    shell: Shell,
) -> None:
    there = plans.inventory(2)
    words = ("plan", shell.model(MOE), "--inventory", shell.inventory(there), "--to")
    to = shell.path / "plan.toml"
    out, _ = shell.run(*words, to, "--sequences", 12, "--sequence-length", 64)
    best = search(Question(MOE, there, Workload(64, 1, 12), 12, Pins(replicas=1))).best
    assert best.shape.micro_batch > 1
    assert f"train with micro_batch = {best.shape.micro_batch}" in out
    out, _ = shell.run(*words, to, "--sequences", 12, "--micro-batch", 3)
    assert "4 micro-batches of 3 x 512 tokens" in out
    assert "train with micro_batch" not in out


def test_a_profile_replaces_what_is_counted(shell: Shell) -> None:
    profile = shell.path / "profile.toml"
    parts = (Measured("moe", 512, 2.0, 4.0, 1.0, 2.0),)
    measured = Profile("cpu", 1, Rates(1e10, 1e9), parts, "measured here")
    save_profile([measured], [Link(("*",), 1e9, 1e-4)], profile)
    words = ("plan", shell.model(MOE), "--inventory", shell.inventory(plans.inventory(1)))
    to = ("--to", shell.path / "p")
    assert "counted from FLOPs and bytes, not measured; links assumed" in shell.run(*words, *to)[0]
    told = shell.run(*words, *to, "--profile", profile)[0]
    assert "source of the seconds: measured here; links as listed" in told


def test_serving_holds_what_it_says_and_no_token_more(shell: Shell) -> None:
    there = plans.inventory(3, memory_bytes=10**9)
    to = shell.path / "plan.toml"
    words = ("plan", shell.model(MOE), "--inventory", shell.inventory(there), "--serving")
    out, _ = shell.run(*words, "--to", to)
    plan = load_plan(to)
    work = Workload(512, 1, 8, training=False)
    tokens = tokens_held(MOE, plan, there, work)
    assert f"the key-value cache of {tokens:,} tokens fits" in out
    for length, fits in ((tokens, True), (tokens + 1, False)):
        needed = rank_bytes_of(MOE, plan, replace(work, sequence_length=length))
        assert (max(each.total for each in needed) <= 10**9) == fits


def test_nodes_of_kubernetes_make_a_plan(shell: Shell) -> None:
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    offered = {"allocatable": {"cpu": "4", "memory": "16Gi"}, **ready}
    items = [
        {"metadata": {"name": "one"}, "status": offered},
        {"metadata": {"name": "two"}, "status": offered, "spec": {"unschedulable": True}},
    ]
    nodes = shell.path / "nodes.json"
    nodes.write_text(json.dumps({"kind": "NodeList", "items": items}))
    to = shell.path / "plan.toml"
    _, err = shell.run(
        "plan", shell.model(MOE), "--nodes", nodes, "--threads", 2, "--stages", 2, "--to", to
    )
    assert "left out node two: it is cordoned" in err
    assert {stage.ranks[0].device for stage in load_plan(to).stages} == {"one/cpu0", "one/cpu1"}


def test_the_page_is_drawn_where_asked(shell: Shell) -> None:
    page = shell.path / "plan.html"
    words = ("plan", shell.model(MOE), "--inventory", shell.inventory(plans.inventory(2)))
    out, _ = shell.run(*words, "--to", shell.path / "plan.toml", "--html", page)
    assert "plan.html" in out.replace(" ", "")
    assert "a/1" in page.read_text()


def test_a_head_that_config_json_wrongly_ties_is_planned_and_said(shell: Shell) -> None:
    """The plan is that of the model that transformers and the other verbs read: with two tables."""
    model = tiny.model("llama", num_hidden_layers=2, tie_word_embeddings=False)
    model.config.tie_word_embeddings = True
    path, there = tiny.saved(model, shell.path / "odd"), shell.inventory(plans.inventory(1))
    words = ("--inventory", there, "--to", shell.path / "plan.toml", "--sequence-length", 64)
    out, _ = shell.run("plan", path, *words)
    assert "caution: lm_head.weight in" in out
    odd = load_plan(shell.path / "plan.toml")
    model.config.tie_word_embeddings = False
    tiny.saved(model, path)
    out, _ = shell.run("plan", path, *words)
    assert "caution" not in out
    assert load_plan(shell.path / "plan.toml") == odd
