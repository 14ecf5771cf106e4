"""Every damage to a training checkpoint is noticed by whoever reads the tensor, and named."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from moe.checkpoint.digest import file_sha256
from moe.checkpoint.manifest import MANIFEST, load_manifest, sealed
from moe.checkpoint.moments import Moments
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.records import MOMENTS
from moe.checkpoint.weight_files import INDEX
from moe.config.tensors import tensors
from moe.errors import CheckpointError
from tests import runs, saves
from tests.examples import examples
from tests.routed import routed

CONFIG = routed(layers=2)
EXPERT = "model.layers.1.mlp.experts.2.up_proj.weight"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    plan = runs.plan(CONFIG, (1, 1), (1, 2), (2, 2))
    whole, cuts = saves.Whole.of(CONFIG), saves.Cuts(2, seed=7)
    return Path(str(saves.write(whole, plan, cuts, folder / "step-00000003", folder)))


@pytest.fixture
def saved(original: Path, tmp_path: Path) -> Path:
    for file in original.rglob("*"):
        to = tmp_path / file.relative_to(original)
        to.parent.mkdir(exist_ok=True)
        if file.is_file():
            to.write_bytes(file.read_bytes())
    return tmp_path


def read_all(at: Path) -> None:
    """Read everything as the ranks of a run do between them."""
    manifest = load_manifest(at)
    checkpoint, moments = Checkpoint.open(at, manifest), Moments.open(at, manifest)
    for tensor in tensors(CONFIG):
        checkpoint.read(tensor)
        for moment in MOMENTS if tensor.role.trained else ():
            moments.read(tensor, moment)


def refused(at: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_all(at)


def file_of(at: Path, name: str) -> Path:
    return at / load_manifest(at).tensors[name].file


def rewritten(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors of a file with the format's own library."""
    table = load_file(path)
    change(table)
    save_file(table, path, {"format": "pt"})


def patched(at: Path, change: Callable[[dict[str, object]], object]) -> None:
    """Change the manifest, and let it have the sizes and hashes that the files have now."""
    table = json.loads((at / MANIFEST).read_text())
    table["files"] = {name: (at / name).stat().st_size for name in table["files"]}
    table["hashes"] = {name: file_sha256(at / name) for name in table["hashes"]}
    change(table)
    (at / MANIFEST).write_text(json.dumps(sealed(table)))


def test_the_original_is_sound(saved: Path) -> None:
    read_all(saved)


@settings(max_examples=examples(60))
@given(seed=st.integers(0, 10**9))
def test_one_flipped_bit_anywhere_is_caught_and_named(original: Path, seed: int) -> None:
    source, manifest = Random(seed), load_manifest(original)
    records = {tensor.name: tensor.file for tensor in manifest.tensors.values()}
    records |= {piece.key: piece.file for piece in manifest.pieces}
    name = source.choice(sorted(records))
    path = original / records[name]
    sound = path.read_bytes()
    length = int.from_bytes(sound[:8], "little")
    begin, end = json.loads(sound[8 : 8 + length])[name]["data_offsets"]
    at = 8 + length + source.randrange(begin, end)
    broken = bytearray(sound)
    broken[at] ^= 1 << source.randrange(8)
    try:
        path.write_bytes(broken)
        with pytest.raises(CheckpointError) as caught:
            read_all(original)
    finally:
        path.write_bytes(sound)
    assert f"{name} in {path} is damaged: its bytes have changed" in str(caught.value)


def test_a_reader_of_other_tensors_is_not_stopped(saved: Path) -> None:
    path = file_of(saved, EXPERT)
    rewritten(path, lambda table: table[EXPERT].add_(1))
    manifest = load_manifest(saved)
    checkpoint = Checkpoint.open(saved, manifest)
    held = [tensor for tensor in tensors(CONFIG) if tensor.name != EXPERT]
    for tensor in held:
        checkpoint.read(tensor)
    with pytest.raises(CheckpointError, match=EXPERT):
        checkpoint.read(next(tensor for tensor in tensors(CONFIG) if tensor.name == EXPERT))


def test_swapped_experts_are_told_apart(saved: Path) -> None:
    path = file_of(saved, EXPERT)
    other = next(
        name
        for name, value in load_file(path).items()
        if ".experts." in name and name != EXPERT and value.shape == (20, 24)
    )

    def swap(table: dict[str, torch.Tensor]) -> None:
        table[EXPERT], table[other] = table[other], table[EXPERT]

    rewritten(path, swap)
    refused(
        saved, f"({EXPERT}|{other}) in .* is damaged: its bytes are those of ({EXPERT}|{other})"
    )


def test_swapped_files_of_moments_are_told_apart(saved: Path) -> None:
    one, other = (saved / "optimizer" / f"rank-{rank:05d}.safetensors" for rank in (0, 1))
    first = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(first)
    patched(saved, lambda table: None)
    refused(saved, r"lies in .*rank-0000\d.safetensors and in .*rank-0000\d.safetensors")


def test_a_missing_expert_is_named(saved: Path) -> None:
    rewritten(file_of(saved, EXPERT), lambda table: table.pop(EXPERT))
    patched(saved, lambda table: None)
    refused(saved, f"does not hold {EXPERT}, as its manifest says")


def test_an_expert_that_lies_in_two_files_is_named(saved: Path) -> None:
    path = file_of(saved, EXPERT)
    other = next(file for file in saved.glob("model-*.safetensors") if file != path)
    copied = load_file(path)[EXPERT]
    rewritten(other, lambda table: table.update({EXPERT: copied}))
    patched(saved, lambda table: None)
    refused(saved, f"{EXPERT} lies in {other} and in {path}")


def test_a_file_too_many_is_refused(saved: Path) -> None:
    (saved / "model-rank-00009.safetensors").write_bytes(file_of(saved, EXPERT).read_bytes())
    refused(saved, r"rank-00009\.safetensors is a file that its manifest does not list")


def test_an_index_that_points_elsewhere_is_refused(saved: Path) -> None:
    table = json.loads((saved / INDEX).read_text())
    table["weight_map"][EXPERT] = "model-rank-00000.safetensors"
    (saved / INDEX).write_text(json.dumps(table))
    patched(saved, lambda table: None)
    refused(saved, f"{EXPERT} lies in model-rank-00000.safetensors by .* and in model-rank")


@pytest.mark.parametrize("moments", [False, True])
def test_a_truncated_file_names_what_it_lost(moments: bool, saved: Path) -> None:
    path = file_of(saved, EXPERT)
    if moments:
        path = saved / "optimizer" / "rank-00001.safetensors"
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__")
    last = max(header, key=lambda name: header[name]["data_offsets"][1])
    path.write_bytes(raw[:-4])
    refused(saved, rf"{path.name} has {len(raw) - 4} bytes.*{last.partition('[')[0]} cannot be tr")
    path.write_bytes(raw[: length // 2])
    refused(saved, rf"{path.name} has .* and \d+ more cannot be trusted")
    path.unlink()
    refused(saved, rf"{path.name} has no bytes, .* and \d+ more cannot be trusted")


def test_a_tensor_the_manifest_forgot_is_named(saved: Path) -> None:
    patched(saved, lambda table: table["tensors"].pop(EXPERT))  # type: ignore[attr-defined]
    refused(saved, EXPERT)


def test_a_piece_the_manifest_forgot_is_named(saved: Path) -> None:
    def forget(table: dict[str, object]) -> None:
        pieces = table["pieces"]
        assert isinstance(pieces, list)
        pieces.remove(next(piece for piece in pieces if piece["name"] == EXPERT))

    patched(saved, forget)
    refused(saved, EXPERT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.update(format=1), "has format 1, this version resumes formats 2 and"),
        (lambda table: table.pop("format"), "has format 1"),
        (lambda table: table.pop("step"), "is not a manifest: 'step'"),
        (lambda table: table.update(tensors=[]), "is not a manifest"),
        (lambda table: table["pieces"][0].pop("sha256"), "is not a manifest: .*sha256"),
        (lambda table: table["pieces"][0].update(more=1), "is not a manifest: .*more"),
    ],
)
def test_a_manifest_that_is_none(
    change: Callable[[dict[str, object]], object], message: str, saved: Path
) -> None:
    patched(saved, change)
    refused(saved, message)


def edited(path: Path, before: str, after: str) -> None:
    """Change a text file as an editor does, once, at equal length if both words have it."""
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"coefficient": ', '"coefficient": 1'),
        ('"step": 3', '"step": 7'),
        ('"dtype": "F32"', '"dtype": "F16"'),
        ('"shares": [', '"shares": [0.5, '),
    ],
)
def test_an_edited_manifest_is_refused(before: str, after: str, saved: Path) -> None:
    edited(saved / MANIFEST, before, after)
    refused(saved, rf"{MANIFEST} has changed since it was saved: its own sha256")


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("config.json", '"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'),
        ("config.json", '"rope_theta": 1', '"rope_theta": 2'),
        ("config.json", '"num_experts_per_tok": 2', '"num_experts_per_tok": 1'),
        ("plan.toml", "threads", "Threads"),
        ("run.json", '"seed": 0', '"seed": 1'),
    ],
)
def test_a_file_edited_at_equal_length_is_named(
    file: str, before: str, after: str, saved: Path
) -> None:
    edited(saved / file, before, after)
    refused(saved, f"{saved / file} has changed since it was saved: its sha256")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"coefficient": -0.001}, "layer 1 the balance coefficient -0.001, its run has 0 to"),
        ({"coefficient": 1.5}, "layer 1 the balance coefficient 1.5, its run has 0 to 0.01"),
        ({"shares": [2.0, -1.0, 0.0, 0.0]}, "layer 1 invalid shares"),
        ({"shares": [0.5, 0.4, 0.0, 0.0]}, "layer 1 invalid shares"),
        ({"probabilities": [0.5]}, "layer 1 invalid shares"),
    ],
)
def test_a_balance_that_no_run_comes_to_is_refused(
    values: dict[str, object], message: str, saved: Path
) -> None:
    sound = {"coefficient": 0.01, "shares": [0.25] * 4, "probabilities": [0.25] * 4}
    patched(saved, lambda table: table.update(balance={"1": sound}))
    load_manifest(saved)
    patched(saved, lambda table: table.update(balance={"1": sound | values}))
    refused(saved, message)


def test_the_step_is_that_of_the_name(saved: Path) -> None:
    at = saved.rename(saved.with_name("step-00000003"))
    read_all(at)
    other = at.rename(at.with_name("step-00000004"))
    refused(other, "says step 3 but lies in step-00000004")


def test_a_checkpoint_of_format_2_is_read_still(saved: Path) -> None:
    """It has hashes of tensors and no others: what can be checked of it is."""

    def old(table: dict[str, object]) -> None:
        table["format"] = 2
        del table["hashes"]

    patched(saved, old)
    table = json.loads((saved / MANIFEST).read_text())
    del table["sha256"]
    (saved / MANIFEST).write_text(json.dumps(table))
    read_all(saved)
    beyond = {"1": {"coefficient": 9.5, "shares": [], "probabilities": []}}
    (saved / MANIFEST).write_text(json.dumps(table | {"balance": beyond}))
    refused(saved, "the balance coefficient 9.5")
