"""Commands of raymoe typed in a directory, with what they print."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from moe.config.families import write_config
from moe.config.model import ModelConfig
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import Inventory
from moe.planning.devices.inventory_file import save_inventory
from pipelines.cli import main
from tests import plans

SMALL = replace(plans.SMOLLM2, layers=6)
MOE = plans.with_experts(SMALL, 4)
WORK = Workload(512, 1, 8, snapshots=True)


class Shell:
    """Types commands in a directory that holds a model and an inventory."""

    def __init__(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.path, self._patch, self._capsys = path, monkeypatch, capsys

    def model(self, config: ModelConfig, name: str = "model") -> Path:
        """Return a directory that holds config.json and no weights."""
        directory = self.path / name
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps(write_config(config, "float32")))
        return directory

    def inventory(self, there: Inventory, name: str = "inventory.toml") -> Path:
        save_inventory(there, self.path / name)
        return self.path / name

    def run(self, *words: object) -> tuple[str, str]:
        """Return what a command that succeeds prints: stdout with blanks joined, and stderr."""
        code, out, err = self.typed(*words)
        assert code == 0, err
        return " ".join(out.split()), err

    def refused(self, *words: object) -> str:
        """Return the one line that refuses a command, before anything else is printed."""
        code, out, err = self.typed(*words)
        assert code == 1
        assert not out
        assert err.startswith("error: ")
        assert len(err.splitlines()) == 1
        return err

    def typed(self, *words: object) -> tuple[int, str, str]:
        self._patch.setattr(sys, "argv", ["raymoe", *map(str, words)])
        with pytest.raises(SystemExit) as exit_:
            main()
        printed = self._capsys.readouterr()
        return int(exit_.value.code or 0), printed.out, printed.err
