"""Code that is copied into a checkpoint whose family transformers does not know."""

from collections.abc import Mapping
from pathlib import Path

from moe.storage import Location, copy_file

_CODE = Path(__file__).parent / "remote_code"
_RAYMOE = ("configuration_raymoe.py", "experts_raymoe.py", "modeling_raymoe.py")
_FILES: Mapping[str, tuple[str, ...]] = {
    "skywork": ("configuration_skywork.py", "modeling_skywork.py"),
    "skywork_moe": ("configuration_skywork_moe.py", "modeling_skywork_moe.py"),
    "deepseek": ("configuration_deepseek.py", "modeling_deepseek.py", *_RAYMOE),
    "raymoe": _RAYMOE,
}


def copy_remote_code(family: str, directory: Location) -> None:
    """Copy the files that a family's ``auto_map`` names, and their imports; most families have
    none.
    """
    for file in _FILES.get(family, ()):
        copy_file(_CODE / file, directory / file)
