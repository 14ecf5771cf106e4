"""The ways to shrink by name."""

from collections.abc import Mapping
from typing import Any

from moe.surgery.methods import read_only_by
from moe.surgery.shrink.merge import Merge
from moe.surgery.shrink.method import ShrinkMethod
from moe.surgery.shrink.prune import Prune

SHRINK_METHODS: Mapping[str, Any] = {kind.name: kind for kind in (Prune, Merge)}


def shrink_method_named(name: str, options: Mapping[str, Any]) -> ShrinkMethod:
    """Return a method with its options; ConfigError for options that it does not read.

    None means that an option is not given.
    """
    found: ShrinkMethod = read_only_by(SHRINK_METHODS, name, options)
    return found
