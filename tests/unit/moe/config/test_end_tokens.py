import json
from pathlib import Path
from typing import Any

import pytest

from moe.config.end_tokens import end_tokens


@pytest.mark.parametrize(
    ("config", "generation", "ends"),
    [
        (None, None, ()),
        ({}, None, ()),
        ({"eos_token_id": 0}, None, (0,)),
        ({"eos_token_id": [7, 8]}, {}, (7, 8)),
        ({"eos_token_id": 7}, {"eos_token_id": [9, 7]}, (9, 7)),
        ({"eos_token_id": 7}, {"eos_token_id": None}, (7,)),
        ({"eos_token_id": 7}, {"eos_token_id": []}, (7,)),
        (None, {"eos_token_id": 3}, (3,)),
    ],
)
def test_the_generation_config_counts_first(
    config: Any, generation: Any, ends: tuple[int, ...], tmp_path: Path
) -> None:
    for name, table in (("config.json", config), ("generation_config.json", generation)):
        if table is not None:
            (tmp_path / name).write_text(json.dumps(table))
    assert end_tokens(tmp_path) == ends
