"""The command line: what it does without Ray, and one clear line for what it cannot do."""

import json
import re
import sys
from pathlib import Path

import pytest
import typer

import moe
from moe.checkpoint.reader import Checkpoint
from moe.config.run import dump_run, load_run, parse_run
from moe.planning.devices.inventory_file import save_inventory
from pipelines.cli import main
from pipelines.commands.app import app
from tests import plans, tiny

ROOT = Path(__file__).parents[4]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.saved(tiny.llama(), tmp_path / "dense")


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """Return the exit code of the command."""
    monkeypatch.setattr(sys, "argv", ["raymoe", *map(str, words)])
    with pytest.raises(SystemExit) as exit_:
        main()
    return int(exit_.value.code or 0)


def refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object
) -> str:
    """Return the one line that refuses the command."""
    assert run(monkeypatch, *words) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "Traceback" not in said
    return said


def test_upcycle_then_evaluate_what_is_not_there(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    moe = model.parent / "moe"
    assert run(monkeypatch, "upcycle", model, "--to", moe, "--experts", 3) == 0
    assert "largest logit difference" in capsys.readouterr().out
    assert Checkpoint.open(moe).config.experts == 3
    assert "exists and is not empty" in refused(
        monkeypatch, capsys, "upcycle", model, "--to", moe, "--experts", 3
    )
    nothing = model.parent / "nothing"
    assert f"no model directory at {nothing}" in refused(
        monkeypatch, capsys, "upcycle", nothing, "--to", model.parent / "x"
    )
    assert "top-k is 4 but there are 3 experts" in refused(
        monkeypatch, capsys, "upcycle", model, "--to", nothing, "--experts", 3, "--top-k", 4
    )
    assert not nothing.exists()
    assert "experts already" in refused(monkeypatch, capsys, "upcycle", moe, "--to", nothing)
    assert "nothing" in refused(monkeypatch, capsys, "evaluate", moe, "--data", nothing)


def test_a_truncated_model_is_named(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    to = model.parent / "moe"
    said = refused(monkeypatch, capsys, "upcycle", model, "--to", to)
    assert f"{file} is damaged or cut short" in said
    assert [path.name for path in model.parent.iterdir()] == ["dense"]


def test_a_misspelt_key_names_the_right_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.toml"
    file.write_text('name = "x"\n[train]\nlerning_rate = 1.0\n')
    said = refused(monkeypatch, capsys, "train", file, "--set", "train.steps=0")
    assert "train.lerning_rate: unknown key; did you mean learning_rate?" in said
    assert "model: missing" in said
    assert "train.steps: Input should be greater than 0; found 0" in said
    assert f"no run file at {tmp_path / 'no'}" in refused(
        monkeypatch, capsys, "train", tmp_path / "no"
    )


def test_plan_for_an_inventory(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inventory, to = model.parent / "inventory.toml", model.parent / "plan.toml"
    save_inventory(plans.inventory(2), inventory)
    words = ("plan", model, "--inventory", inventory, "--to", to)
    assert run(monkeypatch, *words) == 0
    assert to.exists()
    assert "plan needs 6 ranks (3 stages x gang of 2) but 2 devices" in refused(
        monkeypatch, capsys, *words, "--stages", 3, "--gang", 2
    )
    assert "give one of --inventory FILE, --ray" in refused(
        monkeypatch, capsys, "plan", model, "--to", to
    )


@pytest.mark.parametrize("file", sorted((ROOT / "manifests" / "runs").glob("*.toml")))
def test_every_run_file_of_the_repository_loads(file: Path) -> None:
    assert load_run(file).name == file.stem


def test_every_command_of_the_readme_exists(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "README.md").read_text()
    verbs = set(re.findall(r"raymoe ((?:fetch |kube )?[a-z0-9]+)", text)) - {"turns", "keeps"}
    assert {"train", "serve", "fetch smollm2", "kube render"} <= verbs
    for verb in sorted(verbs):
        assert run(monkeypatch, *verb.split(), "--help") == 0, verb


@pytest.mark.parametrize(
    ("verb", "shown"),
    [
        (
            "serve",
            [
                "Example: raymoe serve models/moe",
                "[default: 127.0.0.1]",
                "[default: 8000]",
                "(one rank that holds the whole model)",
                "(that of the directory, or of the run)",
            ],
        ),
        (
            "kube render",
            ["Example: raymoe kube render run.toml", "(the name of the run)"],
        ),
    ],
)
def test_help_has_an_example_and_the_defaults(
    verb: str,
    shown: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert run(monkeypatch, *verb.split(), "--help") == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert [words for words in shown if words not in text] == []


EXAMPLES = ("tokenize", "train", "evaluate", "submit", "stop", "upcycle", "init")


@pytest.mark.parametrize("verb", [*EXAMPLES, "fetch smollm2", "fetch text"])
def test_help_ends_with_an_example_that_the_command_takes(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run(monkeypatch, *verb.split(), "--help") == 0
    (line,) = [each for each in capsys.readouterr().out.splitlines() if "Example: raymoe" in each]
    words = line.partition("raymoe")[2].split()
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    context = command.make_context(verb, words)  # raises where an option or argument is unknown
    assert context.params


def test_the_version_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"raymoe {moe.__version__}\n"


def test_two_ways_to_resume_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(monkeypatch, capsys, "train", tmp_path, "--resume", "--resume-if-saved")
    assert "--resume and --resume-if-saved contradict each other" in said


def test_text_in_brackets_is_printed_as_it_is(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Gloo's errors begin with a path in brackets, which a markup parser would choke on."""
    odd = "/nowhere/[/bold]/[cluster]"
    assert f"no model directory at {odd}" in refused(
        monkeypatch, capsys, "evaluate", odd, "--data", "x"
    )


@pytest.mark.parametrize("file", sorted((ROOT / "manifests" / "runs").glob("*.toml")))
def test_a_resolved_run_is_a_run_file_again(file: Path) -> None:
    run = load_run(file)
    assert parse_run(json.loads(dump_run(run)), "resolved") == run


@pytest.mark.parametrize("command", ["plan", "advise", "simulate", "rebalance", "profile"])
def test_the_help_of_planning_commands_has_an_example_of_options_that_exist(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert run(monkeypatch, command, "--help") == 0
    text = capsys.readouterr().out
    example = text.partition("Example: raymoe ")[2].partition("╭")[0].split()
    assert example[0] == command
    for word in example:
        assert not word.startswith("--") or f" {word} " in text.partition("╭")[2]
        assert not word.startswith("manifests/") or (ROOT / word).is_file()


@pytest.mark.parametrize("file", sorted((ROOT / "manifests" / "inventories").glob("*.toml")))
def test_every_inventory_of_the_repository_can_be_planned_for(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = "deepseek-moe-16b" if file.stem == "example" else "dense"
    assert run(monkeypatch, "plan", model, "--inventory", file, "--numerics", "bf16") == 0
    assert "links as listed" in " ".join(capsys.readouterr().out.split())


def test_a_server_refuses_keys_and_origins_that_fit_no_header(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("serve", model, "--api-key", "sk-1", "--api-key", "sk 2")
    said = refused(monkeypatch, capsys, *asked)
    assert "argument api_keys: give a list of keys" in said
    assert "sk" not in said
    asked = ("serve", model, "--allow-origin", "chat.example")
    assert "argument allowed_origins: give origins" in refused(monkeypatch, capsys, *asked)
    monkeypatch.setenv("RAYMOE_API_KEYS", "\u20ac")
    assert "argument api_keys" in refused(monkeypatch, capsys, "serve", model)
