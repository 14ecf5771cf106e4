"""There and back again nothing has changed, and what is in between is a checkpoint of its kind."""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moe.checkpoint.manifest import load_manifest
from moe.checkpoint.moments import Moments
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.universal.reader import UniversalCheckpoint
from moe.checkpoint.universal.writer import AdamSettings
from moe.config.balance_state import BalanceState
from moe.config.tensors import tensors
from moe.errors import CheckpointError, StorageError
from moe.planning.plan.file import from_dict
from moe.surgery.deepspeed import export_universal, import_universal
from moe.surgery.trained import TrainingCheckpoint
from tests import plans, runs, saves, tiny
from tests.examples import examples
from tests.universal import Form, moment, universal

SETTINGS = AdamSettings(1e-3, (0.9, 0.95), 1e-8)


def silent(done: int, total: int) -> None:
    pass


def imported(folder: Path, family: str, form: Form = "zero-1", **changes: Any) -> Path:
    """Write a model, its universal checkpoint, and what is imported of it; return the last."""
    model = tiny.model(family, **changes)
    path = tiny.saved(model, folder / "model")
    config = Checkpoint.open(path).config
    opened = UniversalCheckpoint.open(universal(model, folder / "universal", form), config)
    run = runs.run_config(path) if config.moe else runs.run_config(path, balance={})
    import_universal(opened, folder / "ours", run, "fingerprint", None, silent)
    return folder / "ours"


def files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("family", ["llama", "mixtral", "qwen3_moe"])
@pytest.mark.parametrize("form", ["zero-1", "zero-3"])
def test_what_is_imported_is_what_a_run_resumes(family: str, form: Form, tmp_path: Path) -> None:
    ours = imported(tmp_path, family, form)
    manifest, saved = load_manifest(ours), Checkpoint.open(tmp_path / "model")
    weights, moments = Checkpoint.open(ours), Moments.open(ours)
    assert (manifest.step, manifest.data) == (7, "fingerprint")
    from_dict(manifest.plan).check_model(weights.config)
    layers = range(3) if family != "llama" else ()
    assert manifest.balance == dict.fromkeys(layers, BalanceState(0.01))
    for tensor in tensors(weights.config):
        assert weights.read(tensor).equal(saved.read(tensor))
        assert moments.read(tensor, "exp_avg_sq").shape == tensor.shape
    q = next(t for t in tensors(weights.config) if t.name.endswith("1.self_attn.q_proj.weight"))
    assert moments.read(q, "exp_avg").equal(moment(q.name, "exp_avg", torch.empty(q.shape)))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(ours)
    before = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    inputs = tiny.tokens(97, 1, 8)
    assert theirs(inputs).logits.equal(before(inputs).logits)


@pytest.mark.parametrize("family", ["llama", "mixtral", "olmoe", "qwen2_moe"])
@pytest.mark.parametrize("form", ["zero-1", "zero-3"])
@pytest.mark.parametrize("tied", [True, False])
def test_there_and_back_again(family: str, form: Form, tied: bool, tmp_path: Path) -> None:
    ours = imported(tmp_path, family, form, tie_word_embeddings=tied)
    told: list[tuple[int, int]] = []
    export_universal(
        TrainingCheckpoint.open(ours),
        tmp_path / "back",
        SETTINGS,
        "tensor",
        lambda done, total: told.append((done, total)),
    )
    assert told[-1][0] == told[-1][1]
    config = Checkpoint.open(ours).config
    before = UniversalCheckpoint.open(tmp_path / "universal", config)
    after = UniversalCheckpoint.open(tmp_path / "back", config)
    assert (after.step, after.parameters) == (before.step, before.parameters)
    for parameter, part in after.parts():
        for state in ("fp32", "exp_avg", "exp_avg_sq"):
            found = after.read(parameter, part, state)
            assert found.equal(before.read(parameter, part, state)), (parameter.name, state)


@settings(
    max_examples=examples(10),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_a_checkpoint_of_any_plan_and_replicas_is_exported(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, config = tmp_path_factory.mktemp("any"), data.draw(saves.models())
    whole, plan = saves.Whole.of(config), data.draw(plans.plans(config))
    cuts = saves.Cuts(data.draw(st.integers(1, 3)), data.draw(st.integers(0, 99)))
    ours = saves.write(whole, plan, cuts, folder / "ours", folder)
    opened = TrainingCheckpoint.open(Path(str(ours)))
    export_universal(opened, folder / "out", SETTINGS, "tensor", silent)
    after = UniversalCheckpoint.open(folder / "out", config)
    for parameter, part in after.parts():
        assert after.read(parameter, part).equal(whole.weight(part.tensor))
        for state in ("exp_avg", "exp_avg_sq") if parameter.trained else ():
            assert after.read(parameter, part, state).equal(whole.moment(part.tensor, state))


def test_receipts_name_all_that_was_read_and_written(tmp_path: Path) -> None:
    ours = imported(tmp_path, "mixtral")
    export_universal(TrainingCheckpoint.open(ours), tmp_path / "back", SETTINGS, "integer", silent)
    tag = tmp_path / "universal" / "global_step7_universal"
    read = {name: data for name, data in files(tag).items() if "model_states" not in name}
    for directory, source in ((ours, read), (tmp_path / "back", files(ours))):
        receipt = json.loads((directory / "receipt.json").read_text())
        written = files(directory)
        del written["receipt.json"]
        for key, held in (("source_files", source), ("files", written)):
            hashes = {name: sha256(data).hexdigest() for name, data in held.items()}
            assert receipt[key] == hashes
    assert receipt["options"] == {"step": 7, "steps_as": "integer"}


def _nan(folder: Path) -> None:
    file = folder / "universal/global_step7_universal/zero/model.norm.weight/exp_avg_sq.pt"
    torch.save({"param": torch.full((24,), torch.nan)}, file)


def test_a_failed_import_leaves_nothing(tmp_path: Path) -> None:
    model = tiny.mixtral()
    path = tiny.saved(model, tmp_path / "model")
    universal(model, tmp_path / "universal")
    _nan(tmp_path)
    opened = UniversalCheckpoint.open(tmp_path / "universal", Checkpoint.open(path).config)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CheckpointError, match="holds NaN or infinity"):
        import_universal(opened, tmp_path / "ours", runs.run_config(path), "data", None, silent)
    assert sorted(tmp_path.iterdir()) == before


def test_a_damaged_checkpoint_is_not_exported(tmp_path: Path) -> None:
    ours = imported(tmp_path, "mixtral")
    (file,) = ours.glob("model-*.safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError):
        export_universal(
            TrainingCheckpoint.open(ours), tmp_path / "back", SETTINGS, "tensor", silent
        )
    assert not (tmp_path / "back").exists()


def test_a_model_without_a_run_is_not_exported(tmp_path: Path) -> None:
    path = tiny.saved(tiny.llama(), tmp_path / "model")
    with pytest.raises(CheckpointError, match="is a model, not a training checkpoint"):
        TrainingCheckpoint.open(path)


@pytest.mark.parametrize("direction", ["import", "export"])
def test_what_is_there_is_not_overwritten(direction: str, tmp_path: Path) -> None:
    ours = imported(tmp_path, "llama")
    opened = TrainingCheckpoint.open(ours)
    found = UniversalCheckpoint.open(tmp_path / "universal", opened.weights.config)
    run = runs.run_config(tmp_path / "model", balance={})
    acts: dict[str, Callable[[], None]] = {
        "import": lambda: import_universal(found, ours, run, "data", None, silent),
        "export": lambda: export_universal(opened, ours, SETTINGS, "tensor", silent),
    }
    with pytest.raises(StorageError, match="exists and is not empty"):
        acts[direction]()
