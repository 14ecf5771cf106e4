"""Plans for servers that hold matrices in few bits: the bytes, and a published example."""

import pytest

from moe.checkpoint.quantised.codec import stored_specs
from moe.config.presets import preset
from moe.config.quantised import FORMS, form_named, quantises
from moe.config.share import whole
from moe.config.tensors import tensors
from moe.errors import PlanError
from moe.planning.counts.memory import Position, cache_bytes_per_token, rank_bytes
from moe.planning.counts.workload import BF16, Workload
from moe.planning.devices.inventory import Device, Inventory
from moe.planning.search.pins import Pins
from moe.planning.search.question import Question
from moe.planning.search.search import search
from pipelines.planning.capacity import tokens_held

SKYWORK = preset("skywork-moe-146b").config
CARD_BYTES = 24e9
USED = 0.95
"""Part of a card that the published server used."""


def served(form: str | None) -> Workload:
    weights = None if form is None else form_named(form, SKYWORK)
    return Workload(4096, 1, 1, training=False, numerics=BF16, gpus=True, weights=weights)


@pytest.mark.parametrize("form", FORMS)
def test_the_bytes_are_those_of_the_files(form: str) -> None:
    """All but the scales of whole outputs, less than a thousandth of the matrices."""
    kind, stored, plain = form_named(form, SKYWORK), 0, 0
    for tensor in tensors(SKYWORK):
        if quantises(tensor.role):
            specs = stored_specs(kind, "matrix", tensor.shape)
            stored += sum(spec.bytes for spec in specs)
        else:
            plain += (4 if tensor.role.exact else 2) * tensor.elements
    found = rank_bytes(SKYWORK, whole(SKYWORK), Position(), served(form))
    assert found.weights == pytest.approx(stored + plain, rel=1e-3)


def test_146_billion_in_fp8_fit_eight_cards_of_24_gb() -> None:
    """Skywork-MoE, section on inference: 146 GB of weights, 36 heads over 8 cards."""
    cards = tuple(
        Device(name=f"gpu-{n}", node="server", kind="4090", memory_bytes=int(USED * CARD_BYTES))
        for n in range(8)
    )
    there, workload = Inventory(cards), served("fp8")
    found = search(Question(SKYWORK, there, workload, 1, Pins(gang=8), "tokens"))
    (stage,) = found.plan.stages
    heads = [rank.kv_heads[1] - rank.kv_heads[0] for rank in stage.ranks]
    assert heads == [5, 5, 5, 5, 4, 4, 4, 4]
    assert all(len(rank.experts) == 2 for rank in stage.ranks)
    shares = [found.plan.share(seat) for seat in found.plan.seats.of_replica(0)]
    sizes = [rank_bytes(SKYWORK, share, Position(), workload).weights for share in shares]
    assert sum(sizes) == pytest.approx(147e9, rel=0.01)
    assert max(sizes) == pytest.approx(18.4e9, rel=0.01)
    assert cache_bytes_per_token(SKYWORK, shares[0], workload) == 2 * 52 * 5 * 128 * 2
    assert tokens_held(SKYWORK, found.plan, there, workload) == 25_645


def test_in_sixteen_bits_they_do_not_fit() -> None:
    cards = tuple(
        Device(name=f"gpu-{n}", node="server", kind="4090", memory_bytes=int(CARD_BYTES))
        for n in range(8)
    )
    with pytest.raises(PlanError, match="weights"):
        search(Question(SKYWORK, Inventory(cards), served(None), 1, Pins(gang=8), "tokens"))


def test_only_a_server_holds_few_bits() -> None:
    with pytest.raises(PlanError, match="only a server holds them"):
        Workload(8, 1, 1, weights=FORMS["fp8"])
