"""Plans in the words of other systems: what megatron-core made of the texts, and restated rules.

The golden values are told in ``tests/oracles/megatron.py``.
"""

import json
import tomllib
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe.errors import PlanError
from moe.planning.plan import other_systems
from moe.planning.stages.split import spans

GOLDEN = json.loads((Path(__file__).parents[4] / "oracles" / "megatron.json").read_text())
CASES = {name: case["options"] | case["outputs"] for name, case in GOLDEN["layouts"].items()}
SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=14)
LONG = "Et*3|(tt|)*29,m|L"


def ours(parts: Sequence[str] | None) -> bool:
    """Tell whether our plans can say what megatron read: a layer a stage, no other kind of it."""
    return parts is not None and all("t" in part and "m" not in part for part in parts)


@pytest.mark.parametrize("case", [name for name in CASES if ours(CASES[name]["parts"])])
def test_reads_what_megatron_reads(case: str) -> None:
    asked = CASES[case]
    expected = spans([part.count("t") for part in asked["parts"]])
    assert other_systems.read_megatron(asked["layout"], asked["layers"]) == expected


@pytest.mark.parametrize("case", [name for name in CASES if not ours(CASES[name]["parts"])])
def test_refuses_what_megatron_or_our_plans_do_not_take(case: str) -> None:
    with pytest.raises(PlanError, match="Megatron layout"):
        other_systems.read_megatron(CASES[case]["layout"], CASES[case]["layers"])


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ((8,), "Et*8L"),
        ((1, 1), "Et|tL"),
        ((5, 5, 5, 5, 4), "Et*5|(t*5|)*3,t*4L"),
        ((3, 5, 5, 5, 5, 4, 4, 4, 4, 4, 4, 5), "Et*3|(t*5|)*4,(t*4|)*6,t*5L"),
        ((4, 5, 5, 2, 3, 2), "Et*4|(t*5|)*2,tt|t*3|ttL"),
    ],
)
def test_writes_texts_that_megatron_read_so(sizes: tuple[int, ...], text: str) -> None:
    read = GOLDEN["layouts"][f"{text} of {sum(sizes)}"]["outputs"]["parts"]
    assert [part.count("t") for part in read] == list(sizes)
    assert other_systems.emit("megatron", spans(sizes)) == text


@given(SIZES)
def test_megatron_reads_back_what_was_written(sizes: list[int]) -> None:
    text = other_systems.megatron_layout(spans(sizes))
    assert other_systems.read_megatron(text, sum(sizes), len(sizes)) == spans(sizes)


@pytest.mark.parametrize(
    ("text", "layers", "stages", "words"),
    [
        ("Et x|tL", 2, None, "' ' at character 3"),
        ("Et|,tx", 2, None, "'x' at character 6"),
        ("Et,3|tL", 4, None, "'3' at character 4 follows nothing"),
        ("E,(tt)|tL", 3, None, r"'\(' at character 3 opens what is not a group"),
        (LONG, 24, None, r"'\(' at character 6 is repeated 29 times but the model's layers are 24"),
        ("Et*" + "9" * 5000 + "L", 4, None, "repeated 999999999999 times"),
        (LONG, 61, None, "m at character 15 is a layer of multi-token prediction"),
        ("Et|t", 2, None, "the loss, L, comes 0 times"),
        ("EEt|tL", 2, None, "the embedding, E, comes 2 times"),
        ("Et|tL", 3, None, "it has 2 of t, a decoder layer, but the model's layers are 3"),
        ("tt|E,tL", 3, None, "the embedding, E at character 4, is not first"),
        ("E|tt|tL", 3, None, "stage 0 of 3 holds the embedding and no decoder layer"),
        ("Et||ttL", 3, None, "stage 1 of 3 holds nothing and no decoder layer"),
        ("Ettt||L", 3, None, "stage 1 of 3 holds nothing"),
        ("Et|*2tL", 2, None, "layers are 2, too few for 3 parts"),
        ("Et|t|t|tL", 4, 2, "4 parts, asked for were 2 stages, 2 virtual chunks on each"),
        ("Et|t|t|tL", 4, 3, "4 parts, asked for were 3 stages; write a part for each"),
    ],
)
def test_faults_name_their_place(text: str, layers: int, stages: int | None, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        other_systems.read_megatron(text, layers, stages)


@given(SIZES)
def test_vllm_reads_a_span_for_each_rank(sizes: list[int]) -> None:
    """Its rule: whole numbers apart by commas; a rank begins where the ranks before it end."""
    counts = [int(count) for count in other_systems.vllm_partition(spans(sizes)).split(",")]
    found = [(sum(counts[:rank]), sum(counts[:rank]) + counts[rank]) for rank in range(len(counts))]
    assert found == list(spans(sizes))


def llama_cpp_device(text: str, layer: int, layers: int) -> int:
    """Restate where llama.cpp puts a layer, in its arithmetic: all of it is float32."""
    shares = numpy.array([float(share) for share in text.split(",")], numpy.float32)
    total = numpy.cumsum(shares, dtype=numpy.float32)
    ends = total / total[-1]
    place = numpy.float32(layer) / numpy.float32(layers + 1)
    return int(numpy.argmax(ends > place))


@given(st.lists(st.integers(1, 90), min_size=1, max_size=15))
def test_llama_cpp_puts_each_layer_where_the_plan_does(sizes: list[int]) -> None:
    text, layers = other_systems.llama_cpp_tensor_split(spans(sizes)), sum(sizes)
    devices = [llama_cpp_device(text, layer, layers) for layer in range(layers + 1)]
    planned = [stage for stage, size in enumerate(sizes) for _ in range(size)]
    assert devices == [*planned, len(sizes) - 1]  # and the output with the last


def test_llama_cpp_counts_the_output_as_a_layer() -> None:
    layers, uncounted = 30, "19,11"
    assert other_systems.llama_cpp_tensor_split([(0, 19), (19, 30)]) == "19,12"
    assert llama_cpp_device(uncounted, 19, layers) == 0  # the plan has it on the second


def test_llama_cpp_takes_no_more_than_fifteen() -> None:
    assert other_systems.llama_cpp_tensor_split(spans([1] * 15)).count(",") == 14
    with pytest.raises(PlanError, match=r"16 stages but llama\.cpp takes"):
        other_systems.llama_cpp_tensor_split(spans([1] * 16))


@given(SIZES)
def test_torchtitan_names_every_module_once(sizes: list[int]) -> None:
    text = other_systems.torchtitan_modules(spans(sizes))
    parts = json.loads(text)
    assert tomllib.loads(f"module_fqns_per_model_part = {text}") == {
        "module_fqns_per_model_part": parts
    }
    layers = [f"layers.{layer}" for layer in range(sum(sizes))]
    assert list(chain(*parts)) == ["tok_embeddings", *layers, "norm", "lm_head"]
    assert [sum("." in name for name in part) for part in parts] == sizes


def test_torchtitan_head_had_another_name() -> None:
    text = other_systems.torchtitan_modules([(0, 1), (1, 2)], head="output")
    assert json.loads(text) == [["tok_embeddings", "layers.0"], ["layers.1", "norm", "output"]]


def test_every_form_says_the_same_plan() -> None:
    cut = ((0, 19), (19, 30))
    assert {
        form: other_systems.emit(form, cut) for form in other_systems.FORMS if form != "torchtitan"
    } == {
        "megatron": "Et*19|t*11L",
        "vllm": "19,11",
        "llama.cpp": "19,12",
    }
    assert json.loads(other_systems.emit("torchtitan", cut))[1][0] == "layers.19"


def test_several_runs_are_said_only_where_they_have_words() -> None:
    cut = ((0, 5), (5, 12), (12, 20), (20, 30))
    for order in ("loop", "V"):
        assert len(json.loads(other_systems.emit("torchtitan", cut, order))) == 4
        for form in ("vllm", "llama.cpp"):
            with pytest.raises(PlanError, match=rf"in a {order}, and {form} takes only one; make"):
                other_systems.emit(form, cut, order)
    assert other_systems.emit("megatron", cut, "loop") == "Et*5|t*7|t*8|t*10L"
    with pytest.raises(PlanError, match=r"in a V, and megatron takes them only in a loop; make"):
        other_systems.emit("megatron", cut, "V")


def test_an_unknown_form_is_told_the_nearest() -> None:
    with pytest.raises(PlanError, match=r"no form named torchtitans .* did you mean torchtitan"):
        other_systems.emit("torchtitans", [(0, 2)])
    with pytest.raises(PlanError, match=r"known: megatron, vllm, llama.cpp, torchtitan"):
        other_systems.emit("xyz", [(0, 2)])


@pytest.mark.parametrize("form", other_systems.FORMS)
@pytest.mark.parametrize("cut", [(), ((1, 2),), ((0, 2), (3, 4)), ((0, 2), (2, 2)), ((0, 0),)])
def test_spans_that_are_no_plan(form: str, cut: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(PlanError):
        other_systems.emit(form, cut)
