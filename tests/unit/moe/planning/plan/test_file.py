"""Plan files as users have them: what was written before is read, and written the same again."""

from pathlib import Path

from moe.planning.plan.file import load_plan, save_plan
from moe.planning.plan.plan import LayerExperts

WRITTEN = """\
[model]
layers = 4
hidden_size = 64
heads = 4
kv_heads = 2
ffn_size = 128
experts = 4
shared_size = 0
vocab_size = 96

[[stages]]
layers = [
    0,
    2,
]
seconds = 0.25
recompute = [
    1,
]
more = [
    [
        2,
        4,
    ],
]

[[stages.ranks]]
devices = [
    "a/cpu0",
]
kv_heads = [
    0,
    1,
]
ffn = [
    0,
    64,
]
experts = [
    0,
    1,
]
threads = 2
kind = "cpu"

[[stages.ranks]]
devices = [
    "a/cpu1",
]
kv_heads = [
    1,
    2,
]
ffn = [
    64,
    128,
]
experts = [
    2,
    3,
]
threads = 1
kind = "cpu"

[[stages.placement]]
layer = 3
experts = [
    [
        0,
        3,
    ],
    [
        1,
        2,
    ],
]
"""


def test_a_file_of_before_is_read_and_written_the_same_again(tmp_path: Path) -> None:
    old, new = tmp_path / "old.toml", tmp_path / "new.toml"
    old.write_text(WRITTEN, encoding="utf-8")
    plan = load_plan(old)
    (stage,) = plan.stages
    assert stage.spans == ((0, 2), (2, 4))
    assert stage.expert_layout == (LayerExperts(3, ((0, 3), (1, 2))),)
    assert [plan.share(seat).experts_of(3) for seat in plan.seats] == [(0, 3), (1, 2)]
    save_plan(plan, new)
    assert new.read_text(encoding="utf-8") == WRITTEN
