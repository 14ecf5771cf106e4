"""Arms that are trained: what they record, and that none is trained twice."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from moe.checkpoint.reader import Checkpoint
from moe.config.model import MoeConfig
from moe.errors import ConfigError, DataError
from moe.surgery.options import UpcycleOptions
from pipelines.study.arm import Arm, Continued, Scratch, Spoiling, Upcycled
from pipelines.study.lab import RECORD, TOKENS_A_STEP, Lab, open_lab
from pipelines.study.sizes import DENSE, mixture

SMALL = replace(DENSE, hidden_size=32, heads=2, kv_heads=2, layers=2, ffn_size=32)
MOE = replace(mixture(MoeConfig(8, 2, 32)), hidden_size=32, heads=2, kv_heads=2, layers=2)
TOKENS = 4 * TOKENS_A_STEP
DENSE_ARM = Arm("dense", Scratch(SMALL), TOKENS, 0, looks=(0.5, 1.0), keeps=(0.5, 1.0))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    for number in range(60):
        words = " ".join(f"the {n} of {n * number} is {n % 7}" for n in range(120))
        (folder / f"{number}.txt").write_text(words)
    return folder


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Iterator[Lab]:
    with open_lab(tmp_path_factory.mktemp("lab"), text, 1, lambda arm, done, total: None) as found:
        yield found


def test_an_arm_learns_and_is_trained_once(lab: Lab) -> None:
    record = lab.record(DENSE_ARM)
    assert len(record.steps) == 4
    assert [look.tokens for look in record.looks] == [2 * TOKENS_A_STEP, 4 * TOKENS_A_STEP]
    assert record.final.loss < record.steps[0].loss
    kept = lab.model(DENSE_ARM, 0.5)
    before = (kept.parent / RECORD).stat().st_mtime_ns
    assert lab.record(DENSE_ARM) == record
    assert (kept.parent / RECORD).stat().st_mtime_ns == before
    assert sorted(path.name for path in kept.parent.iterdir()) == ["after-0.5", "after-1", RECORD]


def test_another_seed_has_other_weights_and_another_order(lab: Lab) -> None:
    other = lab.record(replace(DENSE_ARM, seed=1))
    assert other.steps[0].loss != lab.record(DENSE_ARM).steps[0].loss


def test_an_upcycled_arm_begins_at_the_loss_of_the_dense_one(lab: Lab) -> None:
    """Copies with weights that sum to one compute what the dense model does."""
    options = UpcycleOptions(experts=4, top_k=2, family="raymoe")
    arm = Arm("upcycled", Upcycled(DENSE_ARM, 1.0, options), TOKENS, 0, 1e-9, 1e-9, warmup=0.0)
    record, dense = lab.record(arm), lab.record(DENSE_ARM)
    assert record.final.loss == pytest.approx(dense.final.loss, abs=1e-4)
    assert record.final.similarity == pytest.approx((1.0, 1.0), abs=1e-6)
    assert record.active < record.parameters


def test_a_continued_arm_begins_with_the_weights_of_another(lab: Lab) -> None:
    arm = Arm("on", Continued(DENSE_ARM, 0.5), TOKENS, 0, 1e-9, 1e-9, warmup=0.0)
    half = lab.record(DENSE_ARM).looks[0]
    assert lab.record(arm).final.loss == pytest.approx(half.loss, abs=1e-4)
    assert Checkpoint.open(lab.model(DENSE_ARM, 0.5)).config == SMALL


@pytest.mark.parametrize(("how", "dropped"), [("half unused", 0.5), ("two take half", 0.25)])
def test_spoiled_routers_send_pairs_to_few_experts(lab: Lab, how: Spoiling, dropped: float) -> None:
    """What is above the mean load of 8 experts, where 4 take all or 2 take half."""
    fixed = {"coefficient": {"type": "fixed", "value": 0.0}}
    start = Scratch(MOE, how)
    arm = Arm(how, start, TOKENS_A_STEP, 0, 1e-9, 1e-9, warmup=0.0, looks=(1.0,), balance=fixed)
    (step,) = lab.record(arm).steps
    assert min(step.drops) >= dropped - 0.05
    assert step.coefficients == (0.0, 0.0)


def test_a_damaged_record_is_named(lab: Lab) -> None:
    arm = replace(DENSE_ARM, name="damaged", tokens=TOKENS_A_STEP)
    lab.record(arm)
    (lab.folder / "arms" / arm.key / RECORD).write_text("{")
    with pytest.raises(DataError, match="does not hold the record of an arm; delete its folder"):
        lab.record(arm)


def test_one_lab_has_one_text_and_one_user(lab: Lab, tmp_path: Path) -> None:
    told = lab.told
    with (
        pytest.raises(ConfigError, match="another study runs in"),
        open_lab(lab.folder, lab.text, 1, told),
    ):
        pass
    with open_lab(tmp_path / "lab", tmp_path, 1, told):
        pass
    with (
        pytest.raises(ConfigError, match=r"were trained on .* not on Python's standard"),
        open_lab(tmp_path / "lab", None, 1, told),
    ):
        pass
    with (
        pytest.raises(ConfigError, match="does not exist; give text files"),
        open_lab(tmp_path / "lab", tmp_path / "missing", 1, told),
    ):
        pass
