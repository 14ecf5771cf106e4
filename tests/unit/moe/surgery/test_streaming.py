"""What an upcycling takes and leaves: memory, a killed process, the order of the file."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.upcycle import memory_bar, peak_bytes
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.weight_files import SINGLE
from moe.errors import CheckpointError
from moe.nn.build import build
from moe.staging import staged
from moe.surgery.calibration import Calibration
from moe.surgery.copies import Drop
from moe.surgery.cuts import Shared, Split
from moe.surgery.options import UpcycleOptions
from moe.surgery.streamed import activities, logits
from moe.surgery.upcycle import upcycle
from tests import tiny

SLOW = """
import sys, time
from pathlib import Path
from moe.surgery.upcycle import UpcycleOptions, upcycle

def progress(done, total):
    print(done, flush=True)
    time.sleep(0.02)

upcycle(Path(sys.argv[1]), Path(sys.argv[2]), UpcycleOptions(4, 2), progress)
"""


def test_a_killed_run_leaves_nothing_that_loads_and_the_next_cleans_up(tmp_path: Path) -> None:
    source, to = tiny.saved(tiny.llama(), tmp_path / "dense"), tmp_path / "moe"
    run = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(source), str(to)], stdout=subprocess.PIPE, text=True
    )
    assert run.stdout is not None
    for _ in range(5):
        assert run.stdout.readline()
    living = [path for path in tmp_path.iterdir() if path != source]
    assert len(living) == 1
    with pytest.raises(KeyError), staged(to):
        raise KeyError
    assert living[0].exists(), "what a living process writes is let alone"
    run.send_signal(signal.SIGKILL)
    run.wait(timeout=30)
    run.stdout.close()
    assert not to.exists()
    assert living[0].exists()
    upcycle(source, to, UpcycleOptions(4, 2))
    assert sorted(tmp_path.iterdir()) == [source, to]
    Checkpoint.open(to)


def test_memory_is_that_of_a_few_blocks_whatever_the_experts(tmp_path: Path) -> None:
    sizes = {"vocab_size": 1000, "hidden_size": 480, "intermediate_size": 4096}
    source = tiny.saved(tiny.llama(**sizes, num_hidden_layers=2), tmp_path / "dense")
    layer = 3 * 480 * 4096 * 4
    for experts in (4, 16):
        to = tmp_path / f"moe{experts}"
        peak = peak_bytes(source, to, UpcycleOptions(experts, 2))
        assert peak <= memory_bar(source)
        assert peak < 8 * layer, "sixteen experts of a layer are never in memory together"
    to = tmp_path / "dropped"
    assert peak_bytes(source, to, UpcycleOptions(4, 2, method=Drop())) <= memory_bar(source)


@pytest.mark.slow
def test_memory_of_activity_is_bounded_for_wide_models(tmp_path: Path) -> None:
    sizes = {"vocab_size": 1000, "hidden_size": 256, "intermediate_size": 11008}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 128}
    source = tiny.saved(tiny.llama(**sizes, **heads, num_hidden_layers=2), tmp_path / "dense")
    text = Calibration("text", tiny.tokens(1000, 16, 128))
    for number, method in enumerate((Split("activation"), Shared("activation", shared=4))):
        options = UpcycleOptions(8 - 4 * number, 2, method=method)
        peak = peak_bytes(source, tmp_path / f"moe{number}", options, text)
        assert peak <= memory_bar(source)


def test_activity_in_half_precision_is_what_the_columns_answer(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tiny.saved(tiny.llama(), tmp_path / "dense"))
    inputs = tiny.tokens(97, 2, 11)
    model = build(checkpoint.config, checkpoint.read)
    seen: list[torch.Tensor] = []
    for layer in (1, 2):
        found = model.get_submodule(f"model.layers.{layer}.mlp")
        found.register_forward_pre_hook(lambda module, x: seen.append(module.activate(x[0])))
    with torch.no_grad():
        model(inputs)
    measured = list(activities(checkpoint, inputs, (1, 2)))
    assert [layer for layer, _ in measured] == [1, 2]
    for (_, activity), expected in zip(measured, seen, strict=True):
        assert activity.dtype == torch.bfloat16
        assert torch.allclose(activity.float(), expected.flatten(0, 1).abs().T, rtol=0.01)


def test_streamed_logits_are_those_of_the_built_model(tmp_path: Path) -> None:
    for family in ("llama", "qwen2", "mixtral", "qwen2_moe", "qwen3_moe"):
        path = tiny.saved(tiny.model(family), tmp_path / family)
        checkpoint, inputs = Checkpoint.open(path), tiny.tokens(97, 2, 11)
        with torch.no_grad():
            whole = build(checkpoint.config, checkpoint.read)(inputs).values
        assert torch.allclose(logits(checkpoint, inputs), whole, rtol=1e-4, atol=1e-4)


def test_a_sharded_source_gives_the_same_files(tmp_path: Path) -> None:
    model = tiny.llama()
    single = tiny.saved(model, tmp_path / "dense")
    model.save_pretrained(tmp_path / "many" / "dense", max_shard_size="20KB")
    assert not (tmp_path / "many" / "dense" / SINGLE).exists()
    one = upcycle(single, tmp_path / "moe", UpcycleOptions(4, 2))
    other = upcycle(tmp_path / "many" / "dense", tmp_path / "many" / "moe", UpcycleOptions(4, 2))
    assert one.files == other.files
    assert len(other.source_files) > 2


def test_mixed_types_are_hashed_in_the_order_of_the_file(tmp_path: Path) -> None:
    source = tiny.saved(tiny.llama().to(torch.bfloat16), tmp_path / "dense")
    table = load_file(source / SINGLE)
    for name in [name for name in table if "up_proj" in name or "o_proj" in name]:
        table[name] = table[name].float()
    save_file(table, source / SINGLE, {"format": "pt"})
    receipt = upcycle(source, tmp_path / "moe", UpcycleOptions(3, 2))
    for name, expected in receipt.files.items():
        found = subprocess.run(
            ["sha256sum", tmp_path / "moe" / name], capture_output=True, text=True, check=True
        )
        assert found.stdout.startswith(expected)


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    source = tiny.saved(tiny.llama(), tmp_path / "dense")
    (source / SINGLE).unlink()
    (source / "pytorch_model.bin").write_bytes(b"would fail if it were opened")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin, a pickle .* save_pretrained"):
        upcycle(source, tmp_path / "moe", UpcycleOptions(4, 2))
    assert list(tmp_path.iterdir()) == [source]
