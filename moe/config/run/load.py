"""Run files: TOML to a RunConfig and back."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moe.config.run.config import RunConfig
from moe.config.section_file import load_sections, parse_sections

_NOUN = "run file"


def load_run(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run file and apply ``section.key=value`` overrides; values are TOML, or bare text."""
    return load_sections(path, RunConfig, _NOUN, overrides)


def parse_run(table: Mapping[str, Any], source: str) -> RunConfig:
    """Turn a table into a RunConfig; ConfigError lists every fault with its dotted key."""
    return parse_sections(table, RunConfig, _NOUN, source)


def dump_run(config: RunConfig) -> str:
    """Return the resolved run, defaults included, as JSON."""
    return json.dumps(config.model_dump(mode="json"), indent=2) + "\n"
