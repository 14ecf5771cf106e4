"""A look at experts against transformers, torch, the built model, and the formula by hand."""

from itertools import combinations
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from moe.checkpoint.reader import Checkpoint
from moe.errors import ConfigError
from moe.nn.build import build
from moe.nn.decoder import Decoder
from moe.nn.router import Routing
from moe.surgery.look.look import Traffic, closest, look, traffic_of
from moe.surgery.look.routed import routed
from tests import exports, mixtures, tiny
from tests.routed import routed as architecture

TOKENS = tiny.tokens(97, 10, 13)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: mixtures.made(name, folder / name) for name in mixtures.FAMILIES}


@pytest.mark.parametrize("family", mixtures.FAMILIES)
def test_every_family_is_seen_as_the_built_model_computes_it(
    family: str, models: dict[str, Path]
) -> None:
    checkpoint = Checkpoint.open(models[family])
    decoder = build(checkpoint.config, checkpoint.read).eval()
    whole = _whole_model(decoder)
    found = list(look(checkpoint, TOKENS))
    assert [layer.layer for layer in found] == list(checkpoint.config.moe_layers)
    for layer in found:
        assert layer.traffic is not None
        inputs, routing = whole[layer.layer]
        _check_traffic(layer.traffic, decoder, layer.layer, inputs, routing)
        flat = [_flat(list(e.parameters())) for e in decoder.mixture(layer.layer).experts.values()]
        for i, j in combinations(range(len(flat)), 2):
            assert layer.cosine[i][j] == pytest.approx(
                F.cosine_similarity(flat[i], flat[j], dim=0).item(), abs=1e-5
            )


def test_load_and_sharpness_are_those_of_the_router_logits_of_transformers(
    models: dict[str, Path],
) -> None:
    theirs = tiny.mixtral(num_local_experts=6)
    with torch.no_grad():
        logits = theirs(TOKENS, output_router_logits=True).router_logits
    for layer, gate in zip(look(Checkpoint.open(models["mixtral"]), TOKENS), logits, strict=True):
        assert layer.traffic is not None
        scores = gate.softmax(-1)
        ranked = scores.sort(descending=True).values
        load = torch.bincount(gate.topk(2).indices.flatten(), minlength=6) / (2 * len(gate))
        assert layer.traffic.load == pytest.approx(load.tolist())
        first = (ranked[:, 0] / ranked[:, 1]).mean().item()
        second = (ranked[:, 1] / ranked[:, 2]).mean().item()
        assert layer.traffic.sharpness == pytest.approx(first, rel=1e-3)
        assert layer.traffic.second_sharpness == pytest.approx(second, rel=1e-3)


def test_without_text_only_weights_are_compared(models: dict[str, Path]) -> None:
    for layer in look(Checkpoint.open(models["qwen2_moe"])):
        assert layer.traffic is None
        assert layer.output_similarity is None
        pairs = closest(layer.cosine, 3)
        assert [pair[2] for pair in pairs] == sorted((pair[2] for pair in pairs), reverse=True)
        assert pairs[0][2] == max(
            layer.cosine[i][j] for i, j in combinations(range(len(layer.cosine)), 2)
        )


def test_experts_without_tokens_are_dead(models: dict[str, Path]) -> None:
    found = next(routed(Checkpoint.open(models["mixtral"]), TOKENS))
    onto = torch.tensor([[0, 3]]).expand_as(found.routing.experts)
    experts = found.routing._replace(experts=onto)
    traffic = traffic_of(
        type(found)(found.layer, found.inputs, experts, found.reach, found.experts)
    )
    assert traffic.dead == (1, 2, 4, 5)
    assert traffic.imbalance == pytest.approx(3.0)
    assert traffic.together[0][3] == 1.0


def test_merged_experts_have_weights_to_compare_and_no_traffic(tmp_path: Path) -> None:
    moe = {"top_k": 1, "expert_size": 40, "segment_tokens": 4}
    checkpoint = Checkpoint.open(exports.export(architecture(**moe), tmp_path))
    assert len(next(look(checkpoint)).cosine) == 4
    with pytest.raises(ConfigError, match="no traffic to count; leave the data out"):
        next(look(checkpoint, tiny.tokens(97, 1, 8)))


def test_a_dense_model_is_refused(tmp_path: Path) -> None:
    dense = tiny.saved(tiny.llama(), tmp_path / "dense")
    with pytest.raises(ConfigError, match="has no experts to inspect"):
        next(look(Checkpoint.open(dense)))


def _whole_model(decoder: Decoder) -> dict[int, tuple[Tensor, Routing]]:
    """Return the inputs and the routing of each layer, of all tokens at once."""
    seen: dict[int, tuple[Tensor, Routing]] = {}

    def keep(module: torch.nn.Module, given: tuple[Tensor, ...], routing: Routing) -> None:
        seen[int(module.layer)] = given[0], routing  # type: ignore[arg-type]

    for layer in decoder.config.moe_layers:
        decoder.mixture(layer).router.register_forward_hook(keep)
    with torch.no_grad():
        decoder(TOKENS)
    return seen


def _check_traffic(
    traffic: Traffic, decoder: Decoder, layer: int, x_TD: Tensor, routing: Routing
) -> None:
    experts = decoder.mixture(layer).experts
    count = len(experts)
    outputs = [experts[str(number)](x_TD) for number in range(count)]
    reach, load, together = [], [], torch.zeros(count, count)
    for number in range(count):
        token, place = (routing.experts == number).nonzero(as_tuple=True)
        weight = routing.weights[token, place]
        lengths = (outputs[number][token] * weight[:, None]).norm(dim=1)
        reach.append(lengths.mean().item() if len(lengths) else 0.0)
        load.append(len(token))
    for chosen in routing.experts.tolist():
        for i in chosen:
            for j in chosen:
                together[i, j] += 1 / len(x_TD)
    assert traffic.load == pytest.approx([one / sum(load) for one in load])
    assert traffic.reach == pytest.approx(reach, rel=1e-4)
    torch.testing.assert_close(torch.tensor(traffic.together), together)
    for i, j in combinations(range(count), 2):
        assert traffic.cka[i][j] == pytest.approx(_cka(outputs[i], outputs[j]), abs=1e-4)


def _cka(one: Tensor, other: Tensor) -> float:
    """Linear CKA by features, as Kornblith et al. write it, in float64."""
    one, other = (y.double() - y.double().mean(dim=0) for y in (one, other))
    cross = (one.T @ other).norm() ** 2
    return (cross / ((one.T @ one).norm() * (other.T @ other).norm())).item()


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors]).double()
