"""The loader of run files and deployment files, on sections of every form a file may have."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from moe.config.section import Section
from moe.config.section_file import load_sections, parse_sections
from moe.errors import ConfigError


class Round(Section):
    type: Literal["round"]
    radius: int


class Square(Section):
    type: Literal["square"]
    side: int


class Box(Section):
    label: str = ""


class Shop(Section):
    shape: Annotated[Round | Square, Field(discriminator="type")] = Square(type="square", side=1)
    boxes: list[Box] = Field(default=[])
    named: dict[str, Box] = Field(default={})
    spare: Box | None = None


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"boxs": []}, "boxs: unknown key; did you mean boxes?"),
        ({"boxes": [{}, {"lable": "x"}]}, "boxes.1.lable: unknown key; did you mean label?"),
        ({"named": {"a": {"lable": "x"}}}, "named.a.lable: unknown key; did you mean label?"),
        ({"spare": {"lable": "x"}}, "spare.lable: unknown key; did you mean label?"),
        (
            {"shape": {"type": "round", "radius": 1, "radios": 1}},
            "shape.radios: unknown key; did you mean radius?",
        ),
        (
            {"shape": {"type": "round", "radius": 1, "side": 1}},
            "shape.side: unknown key; the type square has it, this is round",
        ),
        ({"shape": {"type": "round"}}, "shape.radius: missing; the shop file must give it"),
        ({"named": {"a": 3}}, "named.a: "),
    ],
)
def test_a_fault_has_the_key_that_the_file_has(table: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_sections(table, Shop, "shop file", "here")
    assert f"here is not a shop file:\n  {said}" in str(caught.value)


def test_overrides_are_named_where_something_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "shop.toml"
    file.write_text("[spare]\n", encoding="utf-8")
    sets = ["spare.label=b", "shape.side=0.5"]
    with pytest.raises(ConfigError) as caught:
        load_sections(file, Shop, "shop file", sets)
    assert str(caught.value).startswith("--set shape.side=0.5: shape.")
    file.write_text("[spare]\nlable = 1\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_sections(file, Shop, "shop file", sets)
    own, brought = str(caught.value).splitlines()[1:]
    assert "spare.lable: unknown key" in own
    assert brought.startswith("--set shape.side=0.5: ")
    file.write_text("[spare]\n", encoding="utf-8")
    found = load_sections(file, Shop, "shop file", sets[:1])
    assert found.spare == Box(label="b")
