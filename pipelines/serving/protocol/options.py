"""JSON objects of requests: which keys are read, which are passed over, which are refused.

An option that nobody knows is refused by name, and so is a known option that asks for what this
server does not do. Options for bookkeeping, empty values and values that ask for what happens
anyway pass. ``null`` means: not given.
"""

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

IGNORED = frozenset(
    {
        "cache_prompt",
        "cache_salt",
        "keep_alive",
        "metadata",
        "priority",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "request_id",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
        "verbosity",
    }
)
"""Options that do not change the answer, or may be ignored by definition."""

WITHOUT_EFFECT: Mapping[str, tuple[Any, ...]] = {
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "detokenize": (True,),
    "dynatemp_range": (0,),
    "early_stopping": (False,),
    "echo": (False,),
    "function_call": ("none", "auto"),
    "include_reasoning": (True,),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1,),
    "mirostat": (0,),
    "modalities": (["text"],),
    "num_beams": (1,),
    "repeat_penalty": (1,),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "tfs_z": (1,),
    "top_a": (0,),
    "truncate_prompt_tokens": (-1,),
    "typical_p": (1,),
    "use_beam_search": (False,),
    "web_search_options": (False,),
    "xtc_probability": (0,),
}
"""Options of other servers that are not supported, with the values that change nothing."""

EMPTY: tuple[Any, ...] = ("", [], {})


def fault(message: str, param: str | None = None) -> PydanticCustomError:
    """Return the error of a validator; ``param`` names a key below the field that is checked."""
    context = {"text": message}
    if param is not None:
        context["param"] = param.encode("ascii", "backslashreplace").decode()
    return PydanticCustomError("raymoe", "{text}", context)


class Options(BaseModel):
    """A JSON object whose keys are all known."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _only_understood(cls, data: Any) -> Any:
        given = _given(data)
        if not isinstance(given, dict):
            return given
        known = [field.alias or name for name, field in cls.model_fields.items()]
        for key in sorted(given.keys() - set(known)):
            _check_option(key, given.pop(key), known)
        return given


class Loose(BaseModel):
    """A JSON object that other programs may have added keys to; what is unknown is not read."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _only_given(cls, data: Any) -> Any:
        return _given(data)


def _given(data: Any) -> Any:
    """Return an object without the keys that are null; anything else as it is."""
    if not isinstance(data, dict):
        return data
    return {key: value for key, value in data.items() if value is not None}


def _check_option(key: str, value: Any, known: list[str]) -> None:
    """Raise unless an option that is not a field may be passed over."""
    if key in IGNORED or value in EMPTY:
        return
    if key not in WITHOUT_EFFECT:
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {close[0]}?" if close else "leave it out"
        raise fault(f"this option is not supported; {hint}", key)
    allowed = WITHOUT_EFFECT[key]
    if not any(
        value == one and isinstance(value, bool) == isinstance(one, bool) for one in allowed
    ):
        shown = " or ".join(repr(one) for one in allowed)
        raise fault(f"{value!r} is not supported; leave it out or give {shown}", key)
