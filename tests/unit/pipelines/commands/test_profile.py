"""`raymoe profile` on the command line."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from moe.errors import CheckpointError, ConfigError, RaymoeError
from moe.planning.devices.inventory_file import load_profile
from pipelines.commands.profile import precisions_of, profile, sizes_of, source_of
from tests import tiny

QUICK = ["--sequence-length", "16", "--micro-batch", "2,1", "--seconds", "0.01"]

app = typer.Typer()
app.command()(profile)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with config.json and no weights."""
    directory = tiny.saved(tiny.mixtral(), tmp_path_factory.mktemp("model") / "tiny-mixtral")
    (directory / "model.safetensors").unlink()
    return directory


def test_a_machine_is_measured_written_and_shown(model: Path, tmp_path: Path) -> None:
    to = tmp_path / "profile.toml"
    given = [str(model), "--to", str(to), *QUICK, "--precision", "float32"]
    result = CliRunner().invoke(app, given)
    assert result.exception is None, result.output
    (found,), (link,) = load_profile(to)
    assert {(part.part, part.tokens) for part in found.parts} == {
        *((part, tokens) for part in ("embedding", "moe", "head") for tokens in (16, 32)),
        ("optimizer", 1),
    }
    assert (found.kind, found.threads, link.nodes) == ("cpu", 1, ("*",))
    assert found.source.startswith("raymoe profile, tiny-mixtral, 2 ranks of 1 thread, ")
    shown = result.output
    assert f"wrote {to}" in shown.replace("\n", "")
    for words in ("a step", "GFLOP/s", "link:", "over two ranks"):
        assert words in shown
    rows = {tuple(line.split()[:2]): line.split()[2:] for line in shown.splitlines() if line}
    for part in found.parts:
        if part.part in ("moe", "head"):
            cells = rows[part.part, str(part.tokens)]
            assert cells[0] == f"{1e3 * part.forward:.1f}"
            assert cells[2] == f"{part.forward / part.counted_forward:.2f}"
            assert cells[5] == f"{part.backward / part.counted_backward:.2f}"
    table = shown[: shown.index("GFLOP/s in products")].splitlines()[:-1]
    assert max(map(len, table)) <= 80


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["no-such-model"], ConfigError, "no-such-model is neither a model directory"),
        (["MODEL", "--ranks", "0"], ConfigError, "--ranks is 0; give whole numbers above 0"),
        (["MODEL", "--threads", "-1"], ConfigError, "--threads is -1"),
        (["MODEL", "--micro-batch", "1,x"], ConfigError, "--micro-batch is '1,x'"),
        (["MODEL", "--micro-batch", "0"], ConfigError, "--micro-batch is 0"),
        (["MODEL", "--seconds", "0"], ConfigError, "--seconds is 0"),
        (["MODEL", "--precision", "bf16,fp8"], ConfigError, "--precision is 'fp8'"),
        (["EMPTY"], CheckpointError, "is not a model directory"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    words: list[str], error: type[RaymoeError], message: str, model: Path, tmp_path: Path
) -> None:
    places = {"MODEL": str(model), "EMPTY": str(tmp_path)}
    given = [places.get(word, word) for word in words]
    to = tmp_path / "profile.toml"
    result = CliRunner().invoke(app, [*given, "--to", str(to)])
    assert isinstance(result.exception, error)
    assert message in str(result.exception)
    assert not to.exists()


@pytest.mark.parametrize("to", ["", "missing/profile.toml"])
def test_a_place_that_cannot_be_written_is_refused_before_measuring(
    to: str, model: Path, tmp_path: Path
) -> None:
    result = CliRunner().invoke(app, [str(model), "--to", str(tmp_path / to)])
    assert isinstance(result.exception, ConfigError)
    assert "name a file in a directory that exists" in str(result.exception)


def test_sizes_are_in_order_and_each_once() -> None:
    assert sizes_of("4, 1,2,4") == (1, 2, 4)


def test_both_precisions_are_measured_where_the_processor_has_them() -> None:
    assert precisions_of(None, multiplies_bf16=True) == ("float32", "bf16")
    assert precisions_of(None, multiplies_bf16=False) == ("float32",)
    assert precisions_of("bf16, float32,bf16", multiplies_bf16=False) == ("bf16", "float32")


def test_the_source_names_model_ranks_and_processor() -> None:
    source = source_of("skywork-moe-13b", 1, 4, "NVIDIA L4")
    assert source.startswith("raymoe profile, skywork-moe-13b, 1 rank of 4 threads, 20")
    assert source.endswith(", NVIDIA L4")
    assert not source_of("dense", 2, 1, "cpu").endswith(", cpu")
