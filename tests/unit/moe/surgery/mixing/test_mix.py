"""Several dense models as experts: whose tensors are where, and what is refused."""

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from benchmarks.upcycle import watched_peak
from moe.checkpoint.reader import Checkpoint
from moe.config.tensors import tensors
from moe.errors import ConfigError
from moe.surgery.mixing.mix import mix
from moe.surgery.mixing.options import MixOptions, Prompts
from moe.surgery.options import UpcycleOptions
from tests import tiny

OPTIONS = MixOptions(UpcycleOptions(experts=3, top_k=2))


def dense(folder: Path, count: int = 3, family: str = "llama", **changes: Any) -> list[Path]:
    """Write models that differ in everything but their architecture."""
    return [
        tiny.saved(tiny.model(family, seed, **changes), folder / f"dense{seed}")
        for seed in range(count)
    ]


def loaded(path: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def logits(path: Path) -> Tensor:
    with torch.no_grad():
        found: Tensor = loaded(path)(tiny.tokens(97, 2, 17)).logits
    return found


def values(path: Path) -> dict[str, Tensor]:
    checkpoint = Checkpoint.open(path)
    return {tensor.name: checkpoint.read(tensor) for tensor in tensors(checkpoint.config)}


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("form", ["first", "base", "average"])
def test_experts_are_the_models_and_the_trunk_is_as_asked(
    family: str, form: str, tmp_path: Path
) -> None:
    *models, base = dense(tmp_path, 4, family)
    options = replace(OPTIONS, average=form == "average", base=base if form == "base" else None)
    receipt = mix(models, tmp_path / "moe", options)
    mixed, sources = values(tmp_path / "moe"), [values(path) for path in models]
    if form != "average":
        trunk = values(base) if form == "base" else sources[0]
    for name, value in mixed.items():
        if ".router." in name:
            assert 0.01 < value.std() < 0.03
        elif ".experts." in name:
            number = int(name.split(".experts.")[1].split(".")[0])
            assert value.equal(sources[number][name.replace(f".experts.{number}.", ".")])
        elif form == "average":
            mean = torch.stack([source[name].double() for source in sources]).mean(dim=0)
            assert value.equal(mean.float())
        else:
            assert value.equal(trunk[name])
    named = ["dense0", "dense1", "dense2", *(["dense3"] if form == "base" else [])]
    assert [source.source for source in receipt.sources] == named
    assert (receipt.sources[-1].distance is None) == (form == "base")


def test_transformers_reads_the_mixture_as_we_do(tmp_path: Path) -> None:
    """Beside an oracle: logits of a Mixtral whose tensors are put together by hand."""
    models = dense(tmp_path)
    mix(models, tmp_path / "moe", OPTIONS)
    by_hand = transformers.MixtralForCausalLM(loaded(tmp_path / "moe").config).eval()
    states = [loaded(path).state_dict() for path in models]
    routers, target = values(tmp_path / "moe"), by_hand.state_dict()
    for name, value in target.items():
        layer = name.split(".mlp.")[0]
        if name.endswith("gate_up_proj"):
            parts = [[s[f"{layer}.mlp.{p}_proj.weight"] for p in ("gate", "up")] for s in states]
            value.copy_(torch.stack([torch.cat(pair) for pair in parts]))
        elif name.endswith("experts.down_proj"):
            value.copy_(torch.stack([s[f"{layer}.mlp.down_proj.weight"] for s in states]))
        elif name.endswith("mlp.gate.weight"):
            value.copy_(routers[f"{layer}.mlp.router.weight"])
        else:
            value.copy_(states[0][name])
    with torch.no_grad():
        expected = by_hand(tiny.tokens(97, 2, 17)).logits
    assert torch.allclose(logits(tmp_path / "moe"), expected, atol=1e-5)


def test_a_model_mixed_with_itself_is_itself(tmp_path: Path) -> None:
    (model,) = dense(tmp_path, 1)
    for number, changes in enumerate(({"router": "zero", "top_k": 3}, {"renormalise": False})):
        options = MixOptions(replace(OPTIONS.upcycle, **changes))
        receipt = mix([model] * 3, tmp_path / str(number), options)
        if number == 0:
            assert receipt.sources[0].distance is not None
            assert receipt.sources[0].distance.relative < 1e-5
            assert torch.allclose(logits(tmp_path / "0"), logits(model), atol=1e-5)
        else:
            assert receipt.sources[2].distance is not None
            assert receipt.sources[2].distance.relative < 0.2, "a softmax that is nearly even"


@pytest.mark.parametrize("average", [False, True])
def test_rows_from_prompts_are_what_the_router_sees_on_average(
    average: bool, tmp_path: Path
) -> None:
    models = dense(tmp_path)
    prompts = [
        Prompts(f"{seed}.txt", (tiny.tokens(97, 9, seed=seed), tiny.tokens(97, 5, seed=seed + 9)))
        for seed in range(3)
    ]
    options = replace(OPTIONS, prompts=prompts, average=average)
    mix(models, tmp_path / "moe", options)
    mixed = values(tmp_path / "moe")
    means = [_inputs(models[n if average else 0], each) for n, each in enumerate(prompts)]
    for layer in range(3):
        rows = torch.stack([mean[layer] for mean in means])
        rows = torch.nn.functional.normalize(rows - rows.mean(dim=0), dim=1) * 0.02 * 24**0.5
        assert torch.allclose(mixed[f"model.layers.{layer}.mlp.router.weight"], rows, atol=1e-6)


def _inputs(path: Path, prompts: Prompts) -> list[Tensor]:
    """Return the mean input of every feed-forward, by transformers, prompt by prompt."""
    model, seen = loaded(path), [[] for _ in range(3)]  # type: ignore[var-annotated]
    for layer, block in enumerate(model.model.layers):
        block.mlp.register_forward_pre_hook(
            lambda module, inputs, to=seen[layer]: to.append(inputs[0][0])
        )
    with torch.no_grad():
        for tokens in prompts.tokens:
            model(tokens[None])
    return [torch.cat(found).mean(dim=0) for found in seen]


def test_the_receipt_is_true(tmp_path: Path) -> None:
    models = dense(tmp_path)
    mix(models, tmp_path / "moe", OPTIONS)
    table = json.loads((tmp_path / "moe" / "receipt.json").read_text())
    for source, path in zip(table["sources"], models, strict=True):
        for name, digest in source["source_files"].items():
            assert sha256((path / name).read_bytes()).hexdigest() == digest
    for name, digest in table["files"].items():
        assert sha256((tmp_path / "moe" / name).read_bytes()).hexdigest() == digest
    assert table["method"] == "mix"
    assert table["options"]["router"] == "normal"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 98}, "has vocab_size = 97 and .*dense1 has 98"),
        ({"intermediate_size": 44}, "has ffn_size = 40 and .*dense1 has 44; .* one architecture"),
        ({"tie_word_embeddings": False}, "has tie_embeddings = True"),
        ({"rope_theta": 5e5}, "rope_theta"),
    ],
)
def test_unlike_models_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    first = tiny.saved(tiny.llama(), tmp_path / "dense0")
    other = tiny.saved(tiny.llama(**changes), tmp_path / "dense1")
    options = MixOptions(replace(OPTIONS.upcycle, experts=2))
    with pytest.raises(ConfigError, match=message):
        mix([first, other], tmp_path / "moe", options)
    assert not (tmp_path / "moe").exists()


def test_one_number_for_two_words_is_refused(tmp_path: Path) -> None:
    models = dense(tmp_path, 2)
    options = MixOptions(replace(OPTIONS.upcycle, experts=2))
    for path, word in zip(models, ("cat", "dog"), strict=True):
        table = {"model": {"vocab": {"the": 5, word: 6}}, "added_tokens": []}
        (path / "tokenizer.json").write_text(json.dumps(table))
    with pytest.raises(ConfigError, match=r"token 6 is 'cat' .* 'dog' for .*one tokenizer"):
        mix(models, tmp_path / "moe", options)
    table = {"model": {"vocab": {"the": 5, "cat": 6}}, "added_tokens": [{"id": 7, "content": "x"}]}
    (models[1] / "tokenizer.json").write_text(json.dumps(table))
    mix(models, tmp_path / "moe", options)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    models = dense(tmp_path)
    with pytest.raises(ConfigError, match="at least two models; for one, choose the method copy"):
        mix(models[:1], tmp_path / "x", OPTIONS)
    with pytest.raises(ConfigError, match="either of one model or the mean"):
        MixOptions(OPTIONS.upcycle, base=models[0], average=True)
    with pytest.raises(ConfigError, match="1 files of prompts for 3 models"):
        MixOptions(OPTIONS.upcycle, prompts=(Prompts("a", (tiny.tokens(97, 4),)),))
    same = Prompts("a", (tiny.tokens(97, 4),))
    with pytest.raises(ConfigError, match="no row follows"):
        mix(models, tmp_path / "x", replace(OPTIONS, prompts=(same,) * 3))
    assert sorted(tmp_path.iterdir()) == models


def test_types_are_those_of_the_base(tmp_path: Path) -> None:
    first = tiny.saved(tiny.llama(0).to(torch.bfloat16), tmp_path / "dense0")
    other = tiny.saved(tiny.llama(1), tmp_path / "dense1")
    options = MixOptions(replace(OPTIONS.upcycle, experts=2), average=True)
    mix([first, other], tmp_path / "moe", options)
    assert {value.dtype for value in values(tmp_path / "moe").values()} == {torch.bfloat16}


def test_memory_is_that_of_a_few_blocks(tmp_path: Path) -> None:
    sizes = {"vocab_size": 1000, "hidden_size": 480, "intermediate_size": 6144}
    (model,) = dense(tmp_path, 1, **sizes, num_hidden_layers=2)
    options = MixOptions(UpcycleOptions(experts=6, top_k=2), average=True)
    peak = watched_peak(mix, [model] * 6, tmp_path / "moe", options)
    written = sum(path.stat().st_size for path in (tmp_path / "moe").glob("*.safetensors"))
    assert peak < written / 2
