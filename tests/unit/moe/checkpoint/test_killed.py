"""A process killed while it saves hides no checkpoint and leaves none that is torn."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from moe.checkpoint.drafts import drafted, prune
from moe.checkpoint.manifest import checkpoints, load_manifest, step_directory
from moe.checkpoint.moments import Moments
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.records import MOMENTS
from moe.config.tensors import tensors
from moe.errors import StorageError
from moe.storage import Location, sizes
from tests import saves, saving_process

SECONDS = 60.0


def started(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "tests.saving_process", *arguments])


def check_sound(at: Location, config: saves.ModelConfig, step: int) -> None:
    """Read all of a checkpoint, verified, and compare it with what was saved."""
    manifest = load_manifest(at)
    assert manifest.step == step
    whole = saves.Whole.of(config, seed=step)
    checkpoint, moments = Checkpoint.open(at, manifest), Moments.open(at, manifest)
    for tensor in tensors(config):
        assert checkpoint.read(tensor).equal(whole.weights[tensor.name])
        for moment in MOMENTS if tensor.role.trained else ():
            assert moments.read(tensor, moment).equal(whole.moments[tensor.name, moment])


@pytest.mark.parametrize("moment", saving_process.MOMENTS)
def test_at_every_moment_the_previous_checkpoint_is_the_newest(moment: str, tmp_path: Path) -> None:
    assert started("conversion", str(tmp_path), moment).wait(SECONDS) == -9
    first, second = step_directory(tmp_path, 1), step_directory(tmp_path, 2)
    assert checkpoints(tmp_path) == [first]
    torn = [path for path in tmp_path.iterdir() if path != first]
    assert len(torn) == 1, "it was killed in the middle of saving"
    assert torn[0].name.startswith(".step-00000002.")
    check_sound(first, saving_process.SMALL, 1)
    prune(tmp_path, keep=2)
    assert list(tmp_path.iterdir()) == [first]
    with pytest.raises(StorageError, match="exists and is not empty"):
        saving_process.convert(tmp_path, "", [1])
    saving_process.convert(tmp_path, "", [2])
    assert checkpoints(tmp_path) == [first, second]


def test_what_a_living_process_writes_is_not_pruned(tmp_path: Path) -> None:
    with drafted(step_directory(tmp_path, 3)) as draft:
        (draft / "file").write_text("x")
        prune(tmp_path, keep=1)
        assert (draft / "file").exists()


def _has(pattern: str) -> Callable[[Path], bool]:
    return lambda folder: any(folder.glob(f".step-*.partial/{pattern}"))


@pytest.mark.parametrize(
    "pattern", ["model-rank-00005.safetensors", "optimizer/rank-00003.safetensors", "plan.toml"]
)
def test_ranks_killed_while_they_write(pattern: str, tmp_path: Path) -> None:
    """Kill as soon as a file of the second checkpoint is seen; at most that one came through."""
    process = started("ranks", str(tmp_path))
    deadline, seen = time.monotonic() + SECONDS, _has(pattern)
    while not (step_directory(tmp_path, 1).exists() and seen(tmp_path)):
        assert time.monotonic() < deadline
        assert process.poll() is None
    process.kill()
    process.wait()
    complete = checkpoints(tmp_path)
    assert 1 <= len(complete) <= 2
    for number, path in enumerate(complete, start=1):
        assert path == step_directory(tmp_path, number)
    check_sound(complete[-1], saving_process.LARGE, len(complete))
    prune(tmp_path, keep=1)
    assert list(tmp_path.iterdir()) == [complete[-1]]
    assert sizes(complete[-1]).keys() == load_manifest(complete[-1]).files.keys() | {
        "raymoe.json",
        "README.md",
    }
