"""Prompts that begin alike have names in common; other prompts have none."""

import json
from typing import Any

import pytest

from pipelines.serving.replicas.prompts import STEP, beginnings


def names(**request: Any) -> tuple[bytes, ...]:
    return beginnings(json.dumps({"model": "m", **request}).encode())


def common(one: tuple[bytes, ...], other: tuple[bytes, ...]) -> int:
    return sum(a == b for a, b in zip(one, other, strict=False))


SAME = "s" * 3 * STEP


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"prompt": SAME + "a" * STEP}, {"prompt": SAME + "b" * STEP, "max_tokens": 3}),
        ({"prompt": [SAME + "a" * STEP, "x"]}, {"prompt": SAME + "b" * STEP}),
        ({"input": SAME + "a" * STEP}, {"input": SAME + "b" * STEP}),
        ({"instructions": SAME, "input": "a" * STEP}, {"instructions": SAME, "input": "b" * STEP}),
    ],
)
def test_what_begins_alike_has_its_beginning_in_common(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert common(names(**one), names(**other)) == 3
    assert len(names(**one)) == 4


def test_a_conversation_has_in_common_what_was_said_before() -> None:
    first = [{"role": "system", "content": SAME}, {"role": "user", "content": "hello"}]
    later = [*first, {"role": "assistant", "content": "b" * STEP}]
    assert common(names(messages=first), names(messages=later)) == 3
    assert len(names(messages=later)) > len(names(messages=first))


def test_numbers_of_tokens_are_a_prompt() -> None:
    tokens = list(range(500))
    assert names(prompt=tokens) == names(prompt=[tokens, [1]])
    assert 0 < common(names(prompt=tokens), names(prompt=[*tokens[:300], *tokens])) < len(tokens)


def test_another_model_has_other_names() -> None:
    other = beginnings(json.dumps({"model": "n", "prompt": SAME}).encode())
    assert not common(names(prompt=SAME), other)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[1]", b'{"prompt": 3}', b'{"prompt": []}', b'{"prompt": "short"}', b"\xff"],
)
def test_what_is_no_prompt_has_no_name(body: bytes) -> None:
    assert beginnings(body) == ()


def test_invalid_unicode_has_names() -> None:
    assert len(names(prompt="\ud800" * STEP)) == 1
