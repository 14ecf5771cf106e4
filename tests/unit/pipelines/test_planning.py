"""The verbs of the planner, as a person types them."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from cluster.journal import Journal
from moe.config.families import write_config
from moe.config.model import ModelConfig
from moe.config.presets import preset
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import Inventory
from moe.planning.devices.inventory_file import save_inventory, save_profile
from moe.planning.devices.links import Link
from moe.planning.devices.pace import Measured, Profile
from moe.planning.devices.rates import Rates
from moe.planning.experts.placement import load_placement
from moe.planning.layouts import read_megatron
from moe.planning.make import make_plan
from moe.planning.plan_file import load_plan, save_plan
from moe.planning.predict import predict, rank_bytes_of
from moe.planning.schedules.failures import Event, Trace, save_trace
from moe.planning.search.pins import Pins
from moe.planning.search.search import Candidate, Found, Question, search
from moe.planning.search.shapes import Shape
from pipelines.cli import main
from pipelines.planning.capacity import tokens_held, useful_flops
from pipelines.planning.comparison import alternatives_table
from pipelines.planning.survival import Run, goodputs
from tests import plans

ROOT = Path(__file__).parents[3]
SMALL = replace(plans.SMOLLM2, layers=6)
MOE = plans.with_experts(SMALL, 4)
WORK = Workload(512, 1, 8)


class Shell:
    """Types commands in a directory that holds a model and an inventory."""

    def __init__(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.path, self._patch, self._capsys = path, monkeypatch, capsys

    def model(self, config: ModelConfig, name: str = "model") -> Path:
        """Return a directory that holds config.json and no weights."""
        directory = self.path / name
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps(write_config(config, "float32")))
        return directory

    def inventory(self, there: Inventory, name: str = "inventory.toml") -> Path:
        save_inventory(there, self.path / name)
        return self.path / name

    def run(self, *words: object) -> tuple[str, str]:
        """Return what a command that succeeds prints: stdout with blanks joined, and stderr."""
        code, out, err = self._type(*words)
        assert code == 0, err
        return " ".join(out.split()), err

    def refused(self, *words: object) -> str:
        """Return the one line that refuses a command."""
        code, _, err = self._type(*words)
        assert code == 1
        assert err.startswith("error: ")
        assert len(err.splitlines()) == 1
        return err

    def _type(self, *words: object) -> tuple[int, str, str]:
        self._patch.setattr(sys, "argv", ["raymoe", *map(str, words)])
        with pytest.raises(SystemExit) as exit_:
            main()
        printed = self._capsys.readouterr()
        return int(exit_.value.code or 0), printed.out, printed.err


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    return Shell(tmp_path, monkeypatch, capsys)


def test_with_nothing_pinned_the_search_decides(shell: Shell) -> None:
    config, there = plans.SMOLLM2, plans.inventory(2)
    to = shell.path / "plan.toml"
    words = ("plan", shell.model(config), "--inventory", shell.inventory(there), "--to", to)
    out, _ = shell.run(*words)
    found = search(Question(config, there, WORK, 8, Pins(replicas=1, micro_batch=1)))
    assert load_plan(to) == found.plan
    for each in found.alternatives:
        assert f"{each.seconds:.4g} {each.seconds / found.best.seconds:.3f}" in out
    assert ("no other shape comes near" in out) == (not found.alternatives)
    out, _ = shell.run(*words, "--stages", 2, "--pin", "gang=1", "--pin", "layers=12,18")
    assert [stage.layers for stage in load_plan(to).stages] == [(0, 12), (12, 30)]
    assert "x best" not in out
    assert "no other shape" not in out


@pytest.mark.parametrize(
    ("objective", "row"),
    [
        ("step", "6 1 1 1 4 5x4 6, again 2 0x5 3.5 1.250 62.5%"),
        ("tokens", "6 1 1 1 4 5x4 6, again 2 0x5 500 0.500 3.5 62.5%"),
        ("memory", "6 1 1 1 4 5x4 6, again 2 0x5 62.5% 1.250 3.5"),
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
    assert "no other shape comes near" in shell.run(*words)[0]


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
        ("--stages 3 --pin stages=2", "--stages gives stages = 3, another option pins it to 2"),
        ("--micro-batch 2 --pin micro_batch=1", "--micro-batch gives micro_batch = 2"),
        ("--layout Et*3|t*3L --pin layers=2,4", "--layout gives layers = 3,3"),
        ("--layout Et*3|t*3L --stages 3", "layers 2, stages 3"),
        ("--layout Et*9L", "model's layers are 6"),
        ("--pin stags=2", "did you mean stages?"),
        ("--any-replicas --pin replicas=2", "--any-replicas leaves open"),
        ("--sequences 8 --micro-batches 8", "give one of them"),
        ("--sequences 8 --micro-batch 3", "make --micro-batch a divisor"),
        ("--sequences 0", "--sequences is 0"),
        ("--objective tokens", "add --serving"),
        ("--objective stp", "did you mean step?"),
        ("--numerics bf17", "did you mean bf16?"),
        ("--schedule zbv", "plan for 1f1b"),
        ("--emit vlm", "did you mean vllm?"),
        ("--ray", "either --ray or --inventory"),
        ("--context here", "--context here is for --kubernetes"),
        ("--profile nowhere.toml", "no profile at nowhere.toml"),
        ("--imbalance 0.5", "imbalance 0.5"),
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


def test_a_plan_needs_somewhere_to_go(shell: Shell) -> None:
    words = ("plan", shell.model(MOE), "--inventory", shell.inventory(plans.inventory(2)))
    assert "--to FILE for the plan, or --emit FORM" in shell.refused(*words)


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


def test_one_replica_unless_asked(shell: Shell) -> None:
    """Small models gain from replicas most, so that not having them is a decision."""
    there = shell.inventory(plans.inventory(4))
    words = ("plan", shell.model(SMALL), "--inventory", there, "--to", shell.path / "plan.toml")
    shell.run(*words)
    assert load_plan(shell.path / "plan.toml").replicas == 1
    out, _ = shell.run(*words, "--any-replicas")
    many = load_plan(shell.path / "plan.toml").replicas
    assert many > 1
    assert f"{many} replicas: this version simulates them" in out
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
    assert f"train.micro_batch = {best.shape.micro_batch}" in out
    out, _ = shell.run(*words, to, "--sequences", 12, "--micro-batch", 3)
    assert "4 micro-batches of 3 x 512 tokens" in out
    assert "train.micro_batch" not in out


def test_a_profile_replaces_what_is_counted(shell: Shell) -> None:
    profile = shell.path / "profile.toml"
    parts = (Measured("moe", 512, 2.0, 4.0, 1.0, 2.0),)
    measured = Profile("cpu", 1, Rates(1e10, 1e9), parts, "measured here")
    save_profile([measured], [Link(("*",), 1e9, 1e-4)], profile)
    words = ("plan", shell.model(MOE), "--inventory", shell.inventory(plans.inventory(1)))
    to = ("--to", shell.path / "p")
    assert "counted from FLOPs and bytes, not measured; links assumed" in shell.run(*words, *to)[0]
    told = shell.run(*words, *to, "--profile", profile)[0]
    assert "seconds: measured here; links as listed" in told


def test_serving_holds_what_it_says_and_no_token_more(shell: Shell) -> None:
    there = plans.inventory(3, memory_bytes=10**9)
    to = shell.path / "plan.toml"
    words = ("plan", shell.model(MOE), "--inventory", shell.inventory(there), "--serving")
    out, _ = shell.run(*words, "--to", to)
    plan = load_plan(to)
    work = Workload(512, 1, 8, training=False)
    tokens = tokens_held(MOE, plan, there, work)
    assert f"keys and values of {tokens:,} tokens fit" in out
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
    out, _ = shell.run(
        "plan", shell.model(MOE), "--nodes", nodes, "--threads", 2, "--stages", 2, "--to", to
    )
    assert "left out node two: it is cordoned" in out
    assert {stage.ranks[0].device for stage in load_plan(to).stages} == {"one/cpu0", "one/cpu1"}


def test_the_page_is_drawn_where_asked(shell: Shell) -> None:
    page = shell.path / "plan.html"
    words = ("plan", shell.model(MOE), "--inventory", shell.inventory(plans.inventory(2)))
    out, _ = shell.run(*words, "--to", shell.path / "plan.toml", "--html", page)
    assert "plan.html" in out.replace(" ", "")
    assert "a/1" in page.read_text()


def test_advise_needs_no_torch_and_no_ray_and_little_time(shell: Shell) -> None:
    """The bound is generous for a busy machine; docs/planning.md has the figure."""
    dense = shell.model(SMALL, "dense")
    words = ["advise", shell.model(MOE), "--inventory", shell.inventory(plans.inventory(4))]
    words += ["--upcycle-from", dense, "--dense-tokens", "3.2T", "--moe-tokens", "1T"]
    script = (
        "import sys\nfrom pipelines.cli import main\n"
        f"sys.argv = ['raymoe', *{list(map(str, words))!r}]\n"
        "try:\n    main()\nexcept SystemExit as done:\n    assert not done.code\n"
        "found = {'torch', 'ray', 'kubernetes', 'transformers'} & set(sys.modules)\n"
        "print('loaded', sorted(found))"
    )
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    seconds = time.perf_counter() - begin
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "loaded []" in said
    assert "training: step of 8 micro-batches" in said
    assert "serving: keys and values of" in said
    assert "verdict: upcycle" in said
    assert seconds < 8


def test_advise_weighs_upcycling_by_what_the_runs_cost(shell: Shell) -> None:
    dense, there = shell.model(SMALL, "dense"), shell.inventory(plans.inventory(2))
    words = ("advise", shell.model(MOE), "--inventory", there, "--upcycle-from", dense)
    verdicts = {
        tokens: shell.run(*words, "--dense-tokens", "300B", "--moe-tokens", tokens)[0]
        for tokens in ("1B", "150B", "3e12")
    }
    for told, verdict in zip(verdicts.values(), ("upcycle", "border", "train"), strict=True):
        assert f"verdict: {verdict}" in told
    flops = 150e9 * useful_flops(MOE, 512)
    assert f"150B tokens, {flops:.3g} FLOPs" in verdicts["150B"]
    there_too = plans.inventory(2)
    found = search(Question(MOE, there_too, WORK, 8, Pins(replicas=1, micro_batch=1)))
    rate = predict(MOE, found.plan, there_too, found.workload).tokens_per_second
    assert f"{150e9 / rate * found.plan.ranks / 3600:,.0f} device hours" in verdicts["150B"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("--dense-tokens 1T", "give both or none"),
        ("--upcycle-from dense", "give both or none"),
        ("--upcycle-from dense --dense-tokens 1T", "give --moe-tokens"),
        ("--moe-tokens 1Q", "'1Q' is no number of tokens"),
        ("--moe-tokens 1T --profile no.toml", "no profile at no.toml"),
    ],
)
def test_half_a_budget_is_refused(shell: Shell, words: str, why: str) -> None:
    there = shell.inventory(plans.inventory(1))
    assert why in shell.refused("advise", shell.model(MOE), "--inventory", there, *words.split())


def test_advise_says_what_does_not_fit_and_goes_on(shell: Shell) -> None:
    small = shell.inventory(plans.inventory(1, memory_bytes=10**9))
    out, _ = shell.run("advise", shell.model(MOE), "--inventory", small)
    training, _, serving = out.partition("serving: ")
    assert "training: " in training
    assert "GB" in training
    assert "tokens fit" in serving


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
    for rank in range(plan.ranks):
        for layer in plan.share(rank).layer_numbers:
            held = plan.share(rank).experts_of(layer)
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


def test_simulate_tells_the_step_of_the_prediction(shell: Shell) -> None:
    there = plans.inventory(3)
    made = make_plan(MOE, there, 3, 1, WORK)
    file = shell.path / "plan.toml"
    save_plan(made, file)
    words = ("simulate", file, "--model", shell.model(MOE), "--inventory", shell.inventory(there))
    for schedule in ("1f1b", "gpipe", "interleaved-1f1b", "zero-bubble"):
        count = 9 if schedule in ("interleaved-1f1b", "zero-bubble") else 8
        out, _ = shell.run(*words, "--schedule", schedule, "--micro-batches", count)
        work = Workload(512, 1, count, schedule=schedule)
        predicted = predict(MOE, made, there, work)
        rate = predicted.tokens_per_second
        assert f"tokens: {predicted.step_seconds:.3g} s" in out
        for stage, bubble in enumerate(predicted.timeline.bubble):
            row = f"{stage} {predicted.stage_seconds[stage]:.3g} {bubble:.1%} "
            parts, _, total = out.partition(row)[2].partition("/")[0].rpartition(" ")
            need = predicted.rank_bytes[stage]
            assert total == f"{need.total / 1e9:.1f}"
            held = sum(map(float, parts.split())) + need.process / 1e9
            assert held == pytest.approx(need.total / 1e9, abs=0.04)
        assert f"{rate * useful_flops(MOE, 512) / 3:.3g} FLOP/s a device" in out


def test_what_counts_as_useful_is_what_the_paper_counts() -> None:
    """Skywork-MoE: 690 tokens/s and GPU are 35 % of 312 TFLOP/s by 6 A + 12 L Q S."""
    useful = useful_flops(preset("skywork-moe-146b").config, 8192)
    assert useful == pytest.approx(6 * 22.69e9 + 12 * 52 * 4608 * 8192, rel=2e-3)
    assert 690 * useful / 312e12 == pytest.approx(0.353, abs=2e-3)


def test_goodput_under_failures(shell: Shell) -> None:
    there = plans.inventory(2)
    file, model = shell.path / "plan.toml", shell.model(MOE)
    save_plan(make_plan(MOE, there, 2, 1, WORK), file)
    words = ("simulate", file, "--model", model, "--inventory", shell.inventory(there))
    out, _ = shell.run(*words, "--failures-mtbf", 600, "--hours", 5)
    ratios = [float(out.partition(name)[2].split("%")[0]) for name in (" restart ", "actors ")]
    assert 0 < ratios[0] < ratios[1] < 100
    trace = shell.path / "trace.csv"
    save_trace(Trace((Event(100.0, 1, 0), Event(900.0, 0, 1)), 1000.0), trace)
    out, _ = shell.run(*words, "--trace", trace)
    assert "1 loss, one every 1,000 s" in out
    assert "--trace says itself" in shell.refused(*words, "--trace", trace, "--hours", 2)
    assert "--hours is how long" in shell.refused(*words, "--hours", 2)
    assert "no trace at" in shell.refused(*words, "--trace", shell.path / "none.csv")


def test_on_fewer_devices_the_run_goes_on_or_waits() -> None:
    """A stage less is slower; where the rest cannot hold the model, even living actors wait."""
    trace = Trace((Event(200.0, 1, 0), Event(800.0, 0, 1)), 1000.0)
    for memory, waits in ((64 * 10**9, False), (2 * 10**9, True)):
        there = plans.inventory(2, memory_bytes=memory)
        plan = make_plan(MOE, there, 2, 1, WORK)
        run = Run(MOE, plan, there, predict(MOE, plan, there, WORK))
        found = dict(goodputs(run, trace))
        living, restart = found["living actors"], found["checkpoint restart"]
        assert restart.waiting_seconds == pytest.approx(600, abs=1)
        assert (living.waiting_seconds > 0) == waits
        assert (living.slower_seconds > 0) == (not waits)


def test_replicas_that_are_left_share_the_sequences() -> None:
    there = plans.inventory(4)
    pins = Pins(stages=2, gang=1, replicas=2, micro_batch=1)
    found = search(Question(MOE, there, WORK, 16, pins))
    run = Run(MOE, found.plan, there, predict(MOE, found.plan, there, found.workload))
    trace = Trace((Event(100.0, 1, 0, (3,)),), 1000.0)
    living = dict(goodputs(run, trace))["living actors"]
    assert living.waiting_seconds == 0
    single = make_plan(MOE, plans.inventory(2), 2, 1, replace(WORK, micro_batches=16))
    step = predict(MOE, single, plans.inventory(2), replace(WORK, micro_batches=16)).step_seconds
    slow = step - run.predicted.step_seconds
    kept = round(living.slower_seconds / slow)
    assert kept > 0
    assert living.slower_seconds == pytest.approx(kept * slow, rel=0.02)
