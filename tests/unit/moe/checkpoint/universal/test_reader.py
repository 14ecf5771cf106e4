"""Universal checkpoints of both forms give our tensors, and faulty ones are refused by name."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.universal.pickles import load, load_checked
from moe.checkpoint.universal.reader import UniversalCheckpoint
from moe.config.model import ModelConfig
from moe.errors import CheckpointError
from tests import tiny
from tests.examples import examples
from tests.universal import Form, moment, universal

Q = "model.layers.1.self_attn.q_proj.weight"
GATE_UP = "model.layers.0.mlp.experts.gate_up_proj"


@pytest.mark.parametrize("family", ["llama", "mixtral", "qwen2_moe"])
@pytest.mark.parametrize("form", ["zero-1", "zero-3"])
@pytest.mark.parametrize("tied", [True, False])
def test_every_tensor_and_moment_is_read(
    family: str, form: Form, tied: bool, tmp_path: Path
) -> None:
    model = tiny.model(family, tie_word_embeddings=tied)
    saved = Checkpoint.open(tiny.saved(model, tmp_path / "model"))
    path = universal(model, tmp_path / "universal", form, step=12)
    held = dict(model.named_parameters())
    for root in (path, path / "global_step12_universal"):
        found = UniversalCheckpoint.open(root, saved.config)
        assert found.step == 12
        for parameter, part in found.parts():
            assert found.read(parameter, part).equal(saved.read(part.tensor))
            for kind in ("exp_avg", "exp_avg_sq"):
                whole = moment(parameter.name, kind, held[parameter.name])
                assert found.read(parameter, part, kind).equal(part.of(whole))


def test_experts_that_transformers_4_held_apart_are_read(tmp_path: Path) -> None:
    model = tiny.mixtral()
    saved = Checkpoint.open(tiny.saved(model, tmp_path / "model"))
    path = universal(_Apart(saved), tmp_path / "universal")
    found = UniversalCheckpoint.open(path, saved.config)
    for parameter, part in found.parts():
        assert found.read(parameter, part).equal(saved.read(part.tensor))


class _Apart:
    """A module that holds its parameters as they lie on disk."""

    def __init__(self, saved: Checkpoint) -> None:
        self._shards = saved.shards

    def named_parameters(self) -> Any:
        return [(name, self._shards.read(name)) for name in sorted(self._shards.names)]


@pytest.fixture
def config(tmp_path: Path) -> ModelConfig:
    model = tiny.mixtral()
    universal(model, tmp_path / "universal")
    return Checkpoint.open(tiny.saved(model, tmp_path / "model")).config


def _without(*names: str) -> Callable[[Path], None]:
    def change(tag: Path) -> None:
        for name in names:
            path = tag / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def _holding(name: str, value: Any) -> Callable[[Path], None]:
    return lambda tag: torch.save(value, tag / name)


def _cut(name: str) -> Callable[[Path], None]:
    return lambda tag: os.truncate(tag / name, (tag / name).stat().st_size // 2)


def _flipped(name: str) -> Callable[[Path], None]:
    def change(tag: Path) -> None:
        weight = load(tag / name)["param"].numpy().tobytes()
        data = bytearray((tag / name).read_bytes())
        data[data.index(weight) + 5] ^= 1
        (tag / name).write_bytes(data)

    return change


class Code:
    """Pickled, it makes a directory when it is opened by one who lets it."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


WRONG: dict[str, tuple[Callable[[Path], None], str]] = {
    "a parameter is gone": (_without(f"zero/{Q}"), f"lacks 1 parameters, the first is {Q}; run"),
    "a stacked one is gone": (
        _without(f"zero/{GATE_UP}"),
        f"lacks 1 parameters, the first is {GATE_UP}; run",
    ),
    "a moment is gone": (
        _without(f"zero/{Q}/exp_avg_sq.pt"),
        f"{Q} has no exp_avg_sq.pt: .* frozen or another optimiser",
    ),
    "a weight is gone": (_without(f"zero/{Q}/fp32.pt"), f"{Q} has no fp32.pt; run"),
    "a step is gone": (_without(f"zero/{Q}/step.pt"), f"{Q}/step.pt is missing, but other"),
    "the common state is gone": (
        _without("zero/optimizer_state.pt"),
        r"lacks zero/optimizer_state.pt, .* universal checkpoint is incomplete",
    ),
    "the model states are gone": (
        _without("mp_rank_00_model_states.pt"),
        r"lacks \*_model_states.pt, .* universal checkpoint is incomplete",
    ),
    "a file is cut": (_cut(f"zero/{Q}/exp_avg.pt"), f"{Q}/exp_avg.pt is damaged, cut short"),
    "one bit is another": (
        _flipped(f"zero/{GATE_UP}/exp_avg.pt"),
        f"{GATE_UP}/exp_avg.pt is damaged, .* has a different CRC-32",
    ),
    "a file is empty": (
        lambda tag: os.truncate(tag / f"zero/{Q}/fp32.pt", 0),
        f"{Q}/fp32.pt is damaged, cut short",
    ),
    "a shape is another": (
        _holding(f"zero/{Q}/fp32.pt", {"param": torch.ones(3, 4)}),
        rf"{Q}/fp32.pt has shape \(3, 4\), config.json asks for \(48, 24\)",
    ),
    "a flat one is short": (
        _holding(f"zero/{Q}/fp32.pt", torch.ones(48 * 24 - 1)),
        rf"{Q}/fp32.pt has shape \(1151,\), config.json asks",
    ),
    "numbers are whole": (
        _holding(f"zero/{Q}/fp32.pt", {"param": torch.ones(48, 24).long()}),
        "holds torch.int64, not a tensor of floating-point numbers",
    ),
    "a table holds none": (_holding(f"zero/{Q}/fp32.pt", {"x": 1}), "holds NoneType, not a tensor"),
    "a parameter is unknown": (
        lambda tag: (tag / "zero" / "model.layers.0.mlp.experts.w1").mkdir(),
        r"has 1 parameters that a mixtral model .* is model.layers.0.mlp.experts.w1; .*AutoEP",
    ),
    "steps differ": (
        _holding(f"zero/{Q}/step.pt", torch.tensor(8.0)),
        f"says 7 steps, .*{Q}/step.pt says 8",
    ),
    "a step is no number": (
        _holding(f"zero/{Q}/step.pt", "seven"),
        "has 'seven' for a step; it must be a whole number",
    ),
    "a file holds code": (
        _holding(f"zero/{Q}/fp32.pt", {"param": Code()}),
        f"{Q}/fp32.pt holds more than tensors and plain values",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(
    case: str, config: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, message = WRONG[case]
    monkeypatch.chdir(tmp_path)
    change(tmp_path / "universal" / "global_step7_universal")
    with pytest.raises(CheckpointError, match=f"(?s){message}"):
        UniversalCheckpoint.open(tmp_path / "universal", config)
    assert not (tmp_path / "ran").exists()


def test_weights_that_are_no_numbers_are_refused(config: ModelConfig, tmp_path: Path) -> None:
    file = tmp_path / "universal" / "global_step7_universal" / "zero" / Q / "exp_avg.pt"
    torch.save({"param": torch.full((48, 24), torch.nan)}, file)
    found = UniversalCheckpoint.open(tmp_path / "universal", config)
    parameter, part = next(pair for pair in found.parts() if pair[0].name == Q)
    with pytest.raises(CheckpointError, match=f"{Q} in .*exp_avg.pt holds NaN or infinity"):
        found.read(parameter, part, "exp_avg")


@pytest.mark.parametrize("where", ["group", "state"])
def test_steps_of_optimisers_that_keep_none_by_parameter_are_found(
    where: str, config: ModelConfig, tmp_path: Path
) -> None:
    tag = tmp_path / "universal" / "global_step7_universal"
    for file in tag.glob("zero/*/step.pt"):
        file.unlink()
    with pytest.raises(CheckpointError, match="does not say how many steps Adam has done"):
        UniversalCheckpoint.open(tag, config)
    common: dict[str, Any] = {"param_groups": [{"step": 7, "lr": 0.1}]}
    if where == "state":
        common = {"optimizer_state_dict": {"state": {0: {"step": 7}, 1: {"step": 7.0}}}}
    torch.save(common, _common(tag))
    assert UniversalCheckpoint.open(tag, config).step == 7
    torch.save(common | {"param_groups": [{"step": 6}, {"step": 7}]}, _common(tag))
    with pytest.raises(CheckpointError, match=r"optimizer_state.pt says 6 .*_state.pt says 7"):
        UniversalCheckpoint.open(tag, config)


def _common(tag: Path) -> Path:
    return tag / "zero" / "optimizer_state.pt"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "there is no such directory"),
        (lambda path: path.mkdir(), "has neither a zero directory nor a latest_universal file"),
        (
            lambda path: (path.mkdir(), (path / "latest_universal").write_text("global_step3")),
            "names 'global_step3', which has no zero directory",
        ),
    ],
)
def test_other_directories_are_no_universal_checkpoints(
    make: Callable[[Path], Any], message: str, config: ModelConfig, tmp_path: Path
) -> None:
    make(tmp_path / "other")
    with pytest.raises(CheckpointError, match=message):
        UniversalCheckpoint.open(tmp_path / "other", config)


@settings(max_examples=examples(200))
@given(data=st.data())
def test_noise_is_refused_and_never_more_than_that(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fp32.pt"
        torch.save({"cat_dim": 0, "param": torch.arange(12.0).view(3, 4)}, path)
        sound = path.read_bytes()
        noisy = bytearray(sound[: data.draw(st.integers(0, len(sound)))])
        for place in data.draw(st.lists(st.integers(0, max(len(noisy) - 1, 0)), max_size=3)):
            noisy[place : place + 1] = bytes([data.draw(st.integers(0, 255))])
        path.write_bytes(noisy)
        for read in (load, load_checked):
            try:
                read(path)
            except CheckpointError:
                continue
            assert read is load or load(path)["param"].equal(torch.arange(12.0).view(3, 4))
