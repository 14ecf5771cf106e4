"""The code that travels with a checkpoint whose family transformers does not know."""

import shutil
from pathlib import Path

_CODE = Path(__file__).parent / "remote_code"
_FILES = {"skywork_moe": ("configuration_skywork_moe.py", "modeling_skywork_moe.py")}


def copy_remote_code(family: str, directory: Path) -> None:
    """Copy the files that the ``auto_map`` of a family's config.json names; most have none."""
    for file in _FILES.get(family, ()):
        shutil.copyfile(_CODE / file, directory / file)
