"""The types of single fields of requests."""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from pipelines.serving.protocol.options import fault

MOST_STOPS = 64
MOST_STOP_CHARACTERS = 1024
MOST_BIASES = 1024


def _whole_text(text: str) -> str:
    """Refuse half of a surrogate pair, which JSON can express but no tokenizer can read."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise fault(f"character {error.start} is half of a surrogate pair") from None
    return text


def _is_tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


def _prompts(value: Any) -> Any:
    """Convert the four forms of a prompt to one: a list of texts or of token lists."""
    prompts = [value] if isinstance(value, str) or _is_tokens(value) else value
    if isinstance(prompts, list) and prompts:
        if all(isinstance(prompt, str) for prompt in prompts):
            return [_whole_text(prompt) for prompt in prompts]
        if all(_is_tokens(prompt) for prompt in prompts):
            return prompts
    raise fault(
        "expected a text, a list of texts, a list of token numbers, or a list of "
        "lists of token numbers"
    )


def _stops(value: Any) -> Any:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise fault("expected a text or a list of texts")
    stops = [stop for stop in stops if stop]
    if len(stops) > MOST_STOPS or any(len(stop) > MOST_STOP_CHARACTERS for stop in stops):
        raise fault(
            f"expected at most {MOST_STOPS} texts of at most {MOST_STOP_CHARACTERS} characters"
        )
    return stops


def _content(value: Any) -> Any:
    """Join the text parts of a message."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not all(isinstance(part, dict) for part in value):
        raise fault("expected a text or a list of text parts")
    return "".join(_part(part) for part in value)


_TEXT_OF_PART = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
}


def _part(part: dict[str, Any]) -> str:
    kind = part.get("type")
    text = part.get(_TEXT_OF_PART.get(kind, "") if isinstance(kind, str) else "")
    if not isinstance(text, str):
        raise fault(f"a part of type {kind!r} is not supported; only text is read here")
    return text


def _biases(value: Any) -> Any:
    """Read token numbers, which JSON has as texts."""
    if not isinstance(value, dict) or len(value) > MOST_BIASES:
        raise fault(f"expected an object of at most {MOST_BIASES} token numbers with their bias")
    return {_token_number(key): bias for key, bias in value.items()}


def _token_number(key: Any) -> int:
    if isinstance(key, int):
        return key
    if not (key.isascii() and key.isdecimal() and len(key) < 10):
        raise fault(f"{key!r} is no token number; give the number of a token as the key")
    return int(key)


UnicodeText = Annotated[str, AfterValidator(_whole_text)]
Prompts = Annotated[list[str] | list[list[int]], BeforeValidator(_prompts)]
Stops = Annotated[list[str], BeforeValidator(_stops)]
Content = Annotated[UnicodeText, BeforeValidator(_content)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Bias = Annotated[float, Field(ge=-100, le=100)]
Biases = Annotated[dict[int, Bias], BeforeValidator(_biases)]
StopTokens = Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=MOST_STOPS)]
