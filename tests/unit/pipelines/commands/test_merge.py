"""``raymoe checkpoint convert --format peft`` and ``raymoe merge``: checkpoint, adapter, model."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from moe.checkpoint.training import About, SaveContext, WholeState, write_training_checkpoint
from moe.config.run import RunConfig
from moe.planning.plan.file import to_dict
from pipelines.training.beginning import check_beginning
from tests import lora, material, parity, plans, tiny
from tests.shell import Shell

LORA = {"rank": 2, "alpha": 8.0, "targets": ["attention", "experts", "router"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return material.make(tmp_path_factory.mktemp("tuned"))


def run_of(folder: Path, to: Path, **train: Any) -> RunConfig:
    return material.run(folder, to, 6, 2, {"train": train})


def checkpoint(context: SaveContext) -> Path:
    """Write step 2 of a run with random numbers."""
    generator = torch.Generator().manual_seed(0)

    def drawn(part: Any, moment: str = "") -> torch.Tensor:
        return 0.3 * torch.randn(part.shape, generator=generator)

    to = context.run.checkpoint.path / "step-00000002"
    about = About(context, to_dict(plans.single(context.config)), 2)
    write_training_checkpoint(to, about, WholeState(drawn, drawn, {}))
    return to


def test_from_a_checkpoint_to_an_adapter_and_a_model(shell: Shell, folder: Path) -> None:
    run = run_of(folder, shell.path / "run", lora=LORA)
    context, _ = check_beginning(run, "never")
    step = checkpoint(context)
    assert check_beginning(run, "always")[0].config == context.config
    adapter, merged = shell.path / "adapter", shell.path / "merged"
    shell.run("checkpoint", "convert", step, "--format", "peft", "--to", adapter)
    said, _ = shell.run("merge", folder / "model", adapter, "--to", merged)
    assert "logits move by at most" in said
    prompt = tiny.tokens(90, 1, 12)[0]
    ours = transformers.AutoModelForCausalLM.from_pretrained(merged)
    with torch.inference_mode():
        found = ours(prompt[None]).logits[0]
    theirs = lora.Adapted(folder / "model", adapter)
    assert parity.close(found, theirs.logits(prompt.tolist()))
    assert (merged / "tokenizer.json").read_bytes() == (
        folder / "model" / "tokenizer.json"
    ).read_bytes()
    again = run_of(folder, shell.path / "again", lora=LORA | {"start": str(adapter)})
    check_beginning(again, "never")


def test_what_is_refused(shell: Shell, folder: Path) -> None:
    run = run_of(folder, shell.path / "run", lora=LORA)
    step = checkpoint(check_beginning(run, "never")[0])
    out = ("--to", shell.path / "out")
    convert = ("checkpoint", "convert")
    assert "(train.lora), which a checkpoint of DeepSpeed cannot write" in shell.refused(
        *convert, step, "--format", "universal", *out
    )
    assert "--trust gives" not in shell.refused(*convert, step, "--format", "peft")
    assert "is no checkpoint of a run: it has no raymoe.json" in shell.refused(
        *convert, folder / "model", "--format", "peft", *out
    )
    assert "trained beside its model; make an adapter of it" in shell.refused(
        "inspect", step, "--data", folder / "tokens"
    )
    assert "is no adapter: it has no adapter_config.json" in shell.refused(
        "merge", folder / "model", step, *out
    )
    assert not (shell.path / "out").exists()


def test_freezing_or_factors_may_not_change(shell: Shell, folder: Path) -> None:
    run = run_of(folder, shell.path / "run", lora=LORA)
    checkpoint(check_beginning(run, "never")[0])
    other = run_of(folder, shell.path / "run", lora=LORA | {"rank": 3})
    with pytest.raises(Exception, match=r"train.lora was .* and is"):
        check_beginning(other, "always")
