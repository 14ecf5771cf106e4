"""Checkpoints in an object store: written by ranks, killed, resumed, pruned; slices read alone."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from actors.engine.reports import merge
from actors.faults.armed import FaultPlan
from moe.checkpoint.drafts import drafted, prune
from moe.checkpoint.manifest import MANIFEST, checkpoints, load_manifest, step_directory
from moe.checkpoint.moments import Moments
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.shard_files import RemoteShard
from moe.checkpoint.training import SaveContext
from moe.config.fault import Fault
from moe.config.tensors import tensors
from moe.errors import CheckpointError, StorageError
from moe.storage import RemotePath, location, sizes
from tests import object_store, runs, saves, saving_process, tiny
from tests.ranks import pool
from tests.reference import PlainTraining
from tests.routed import routed


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    with object_store.running() as uri:
        yield uri


@pytest.fixture
def root(store: str, tmp_path: Path) -> RemotePath:
    found = location(store.format(tmp_path.name))
    assert isinstance(found, RemotePath)
    return found


def test_pieces_and_slices_are_those_of_the_whole(root: RemotePath) -> None:
    config = routed(layers=2)
    whole, cuts = saves.Whole.of(config), saves.Cuts(2, seed=1)
    plan = runs.plan(config, (1, 1), (1, 2), (2, 2))
    with drafted(step_directory(root, 3)) as draft:
        saves.write(whole, plan, cuts, draft, Path("nowhere"))
        assert checkpoints(root) == [step_directory(root, 3)]
    saves.check(draft, whole, runs.plan(config, (2,), (1, 1, 1), (1, 1, 2)), saves.Cuts(3, seed=2))
    checkpoint = Checkpoint.open(draft)
    for tensor in tensors(config):
        for dim in range(len(tensor.shape)):
            part = replace(tensor, dim=dim, start=1, stop=tensor.shape[dim])
            assert checkpoint.read(part).equal(whole.weight(part))
    with pytest.raises(StorageError, match="is a complete checkpoint"), drafted(draft):
        pass


@pytest.mark.slow
def test_a_run_goes_on_from_the_store(root: RemotePath, tmp_path: Path) -> None:
    model = tiny.saved(tiny.mixtral(), tmp_path / "model")
    config, run = Checkpoint.open(model).config, runs.run_config(model)
    plain = PlainTraining(model, run)
    batches = [runs.batch(config, run, step) for step in range(4)]
    for batch in batches:
        plain.step(batch)
    losses = []
    context = SaveContext(config, run, model, "data")
    first, second = runs.plan(config, (3,), (1, 2), (3, 1)), runs.plan(config, (1, 2))
    with pool() as ranks:
        team = ranks.started(first, model, run, runs.LENGTH)
        losses += [merge(team.step(batch), batch.label_count, 0.0).loss for batch in batches[:2]]
        team.save(step_directory(root, 2), context, 2)
        (saved,) = checkpoints(root)
        team = ranks.started(second, saved, run, runs.LENGTH, resume=True)
        losses += [merge(team.step(batch), batch.label_count, 0.0).loss for batch in batches[2:]]
    assert losses == pytest.approx(plain.losses, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["middle weight", "manifest"])
def test_a_save_killed_before_its_manifest_never_was(moment: str, root: RemotePath) -> None:
    command = [sys.executable, "-m", "tests.saving_process", "conversion", root.uri, moment]
    assert subprocess.run(command, check=False).returncode == -9
    first, second = step_directory(root, 1), step_directory(root, 2)
    assert checkpoints(root) == [first]
    torn = sizes(second)
    assert torn if moment != "middle weight" else MANIFEST not in torn
    with pytest.raises(CheckpointError, match=r"raymoe\.json is missing"):
        load_manifest(second)
    _check(first, 1)
    prune(root, keep=1)
    assert sizes(second) == torn, "it might still be being written"
    saving_process.convert(root, "", [2, 3, 4])
    assert checkpoints(root) == [step_directory(root, step) for step in (1, 2, 3, 4)]
    _check(second, 2)
    (step_directory(root, 3) / MANIFEST).remove()
    prune(root, keep=2)
    left = {name.split("/")[0] for name in sizes(root)}
    assert left == {"step-00000002", "step-00000004"}


def test_a_save_that_fails_leaves_nothing(root: RemotePath) -> None:
    def fail() -> None:
        with drafted(step_directory(root, 5)) as draft:
            saves.write(
                saves.Whole.of(saving_process.SMALL),
                runs.plan(saving_process.SMALL, (2,)),
                saves.Cuts(1, 0),
                draft,
                Path("nowhere"),
            )
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert sizes(root) == {}


def test_a_store_keeps_the_marks_of_faults(root: RemotePath) -> None:
    plan = FaultPlan((Fault("kill", 0, 1, "step"), Fault("node", 0, 1)), root / ".faults-1")
    plan.open()
    assert (plan.spent(), len(plan.due(1))) == ((), 1)
    assert [each.take() for each in plan.armed[1:] * 2] == [True, False]
    assert (plan.spent(), plan.due(1)) == (plan.armed[1:], ())
    assert plan.armed[1].when() is not None
    plan.close()
    assert sizes(root) == {}


def test_a_flipped_byte_and_a_short_file_are_named(root: RemotePath) -> None:
    config = saving_process.SMALL
    plan = runs.plan(config, (2,))
    at = saves.write(saves.Whole.of(config), plan, saves.Cuts(1, 0), root / "a", Path("nowhere"))
    name = "model.layers.1.mlp.experts.2.up_proj.weight"
    manifest = load_manifest(at)
    file = at / manifest.tensors[name].file
    assert isinstance(file, RemotePath)
    raw = bytearray(file.read_bytes())
    begin = RemoteShard(file)
    raw[raw.index(begin.read(name).numpy().tobytes())] ^= 1
    _put(file, raw)
    tensor = next(each for each in tensors(config) if each.name == name)
    with pytest.raises(CheckpointError, match=f"{name} in {file} is damaged"):
        Checkpoint.open(at, manifest).read(tensor)
    _put(file, raw[:-8])
    with pytest.raises(CheckpointError, match="cannot be trusted"):
        load_manifest(at)
    with pytest.raises(CheckpointError, match="is damaged or cut short: its header asks for"):
        Checkpoint.open(at)


def _put(file: RemotePath, raw: bytes | bytearray) -> None:
    with file.open_output() as stream:
        stream.write(bytes(raw))


def _check(at: RemotePath, step: int) -> None:
    whole = saves.Whole.of(saving_process.SMALL, seed=step)
    manifest = load_manifest(at)
    assert manifest.step == step
    checkpoint, moments = Checkpoint.open(at, manifest), Moments.open(at, manifest)
    for tensor in tensors(whole.config):
        assert checkpoint.read(tensor).equal(whole.weights[tensor.name])
        assert moments.read(tensor, "exp_avg").equal(whole.moments[tensor.name, "exp_avg"])
