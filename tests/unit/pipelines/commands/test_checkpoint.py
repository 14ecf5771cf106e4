"""``raymoe checkpoint convert``: both directions, and what it refuses."""

import importlib.util
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tomli_w
import torch
import transformers

from moe.checkpoint.manifest import load_manifest
from moe.errors import CheckpointError, ConfigError, RaymoeError
from pipelines.commands.app import app
from pipelines.corpus.inputs import fingerprint
from pipelines.models import zero
from tests import material as tiny_material
from tests.universal import universal


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_material.make(tmp_path_factory.mktemp("material"))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "model")
    universal(model, folder / "universal")
    return folder


@pytest.fixture
def run_file(material: Path, tmp_path: Path) -> Path:
    table = tiny_material.run_table(material, tmp_path / "run", 20) | {"name": "exchange"}
    (tmp_path / "run.toml").write_text(tomli_w.dumps(table))
    return tmp_path / "run.toml"


def convert(*words: object) -> None:
    app(["checkpoint", "convert", *map(str, words)], standalone_mode=False)


def test_an_import_lies_where_resume_looks_and_is_exported_again(
    material: Path, run_file: Path, tmp_path: Path
) -> None:
    convert(material / "universal", "--format", "raymoe", "--run", run_file)
    ours = tmp_path / "run" / "step-00000007"
    manifest = load_manifest(ours)
    assert (manifest.step, manifest.data) == (7, fingerprint(material / "tokens"))
    assert (ours / "tokenizer.json").is_file()
    convert(ours, "--format", "universal", "--to", tmp_path / "out", "--optimizer", "deepspeed")
    tag = tmp_path / "out" / "global_step7_universal"
    common = torch.load(tag / "zero" / "optimizer_state.pt", weights_only=True)
    assert common["optimizer_state_dict"]["state"][0]["step"] == 7
    group = common["param_groups"][0]
    assert 0 < group["lr"] < 3e-3
    assert (group["betas"], group["eps"]) == ((0.9, 0.95), 1e-8)
    with pytest.raises(ConfigError, match="holds checkpoints up to step-00000007 already"):
        convert(material / "universal", "--format", "raymoe", "--run", run_file)
    elsewhere = tmp_path / "elsewhere"
    convert(material / "universal", "--format", "raymoe", "--run", run_file, "--to", elsewhere)
    assert load_manifest(elsewhere).step == 7


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--format", "megatron"), "no format 'megatron'; choose universal, raymoe or peft"),
        (("--format", "peft"), "takes --to DIRECTORY"),
        (("--format", "peft", "--to", "out", "--trust"), "gives --trust no effect"),
        (("--format", "universal"), "takes --to DIRECTORY"),
        (("--format", "raymoe"), "takes --run RUN.toml"),
        (
            ("--format", "universal", "--to", "out", "--run", "run.toml", "--trust"),
            "gives --run, --trust no effect",
        ),
        (
            ("--format", "raymoe", "--run", "run.toml", "--optimizer", "torch"),
            "gives --optimizer no effect",
        ),
        (
            ("--format", "universal", "--to", "out", "--optimizer", "lion"),
            "no optimizer 'lion'; choose torch or deepspeed",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(
    words: tuple[str, ...], message: str, material: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        convert(material / "universal", *words)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.steps=6", "has done 7 steps, train.steps is 6; raise it"),
        ("data.path=nowhere", "nowhere"),
        ("model.path=nowhere", "nowhere"),
    ],
)
def test_a_run_that_cannot_go_on_is_refused(
    override: str, message: str, material: Path, run_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(RaymoeError, match=message):
        convert(material / "universal", "--format", "raymoe", "--run", run_file, "--set", override)
    assert not (tmp_path / "run").exists()


def test_a_run_with_projectors_is_refused(material: Path, run_file: Path, tmp_path: Path) -> None:
    asked = ("--set", "train.orthogonal.accumulate=4", "--set", "elastic.copy_every=0")
    with pytest.raises(ConfigError, match=r"projectors of experts .* of DeepSpeed cannot have"):
        convert(material / "universal", "--format", "raymoe", "--run", run_file, *asked)
    assert not (tmp_path / "run").exists()


def test_a_run_that_saves_to_a_store_is_asked_for_a_directory(
    material: Path, run_file: Path, tmp_path: Path
) -> None:
    words = ("--format", "raymoe", "--run", run_file, "--set", "checkpoint.storage=s3://bucket/run")
    with pytest.raises(
        ConfigError, match=r"s3://bucket/run, where a conversion cannot write; .*--to"
    ):
        convert(material / "universal", *words)
    convert(material / "universal", *words, "--to", tmp_path / "here")
    assert (tmp_path / "here" / "raymoe.json").exists()


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """What save_checkpoint leaves, as far as it can be told from outside."""
    folder = tmp_path / "zero" / "global_step7"
    folder.mkdir(parents=True)
    (folder.parent / "latest").write_text("global_step7")
    (folder / "zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(b"a pickle")
    return folder


def test_shards_of_zero_are_opened_only_for_those_who_trust_them(
    shards: Path, run_file: Path
) -> None:
    for path in (shards, shards.parent):
        with pytest.raises(ConfigError, match=r"global_step7 was written by .* --trust lets"):
            convert(path, "--format", "raymoe", "--run", run_file)


def test_without_deepspeed_it_says_how_to_get_it(
    shards: Path, run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: Any = SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: None))
    monkeypatch.setattr(zero, "importlib", found)
    with pytest.raises(ConfigError, match=r"install the extra raymoe\[deepspeed\], or run"):
        convert(shards, "--format", "raymoe", "--run", run_file, "--trust")


@pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None,
    reason="the extra [deepspeed] is not installed",
)
def test_shards_that_deepspeed_cannot_read_are_named(
    shards: Path, run_file: Path, tmp_path: Path
) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CheckpointError, match=r"ds_to_universal could not convert .*global_step7"):
        convert(shards, "--format", "raymoe", "--run", run_file, "--trust")
    assert sorted(tmp_path.iterdir()) == before


def test_trust_has_no_effect_on_what_runs_no_code(material: Path, run_file: Path) -> None:
    with pytest.raises(ConfigError, match="gives --trust no effect"):
        convert(material / "universal", "--format", "raymoe", "--run", run_file, "--trust")


def test_deepspeed_is_not_imported(material: Path, run_file: Path, tmp_path: Path) -> None:
    before = "deepspeed" in sys.modules
    convert(material / "universal", "--format", "raymoe", "--run", run_file)
    ours = tmp_path / "run" / "step-00000007"
    convert(ours, "--format", "universal", "--to", tmp_path / "out")
    assert ("deepspeed" in sys.modules) == before
    shutil.rmtree(tmp_path / "out")
