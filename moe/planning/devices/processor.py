"""The name of this machine's processor, by which measurements of CPUs are told apart."""

import platform
from pathlib import Path

_FACTS = Path("/proc/cpuinfo")


def processor_name() -> str:
    """Return the name the processor gives itself, and AVX-512 where it has it; or its architecture.

    Virtual machines often name only the maker, and products are twice as fast with AVX-512.
    """
    facts = dict(_told(line) for line in reversed(_lines()))
    name = facts.get("model name", platform.machine())
    return f"{name} with AVX-512" if "avx512f" in facts.get("flags", "").split() else name


def _lines() -> list[str]:
    return _FACTS.read_text(encoding="utf-8").splitlines() if _FACTS.exists() else []


def _told(line: str) -> tuple[str, str]:
    key, _, value = line.partition(":")
    return key.strip(), value.strip()
