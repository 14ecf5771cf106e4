"""The server under load, and the form of the requests to it."""

from dataclasses import dataclass
from typing import Any

import aiohttp

from moe.errors import ClusterError
from pipelines.loading.prompt import Prompt


@dataclass(frozen=True, slots=True)
class Target:
    """A server by its address, up to and with ``/v1``, and what every request to it says.

    ``max_tokens`` is of prompts that have none of their own; ``seconds`` is the longest a request
    may take.
    """

    url: str
    model: str
    api_key: str | None = None
    chat: bool = False
    max_tokens: int = 64
    min_tokens: int | None = None
    ignore_eos: bool = False
    temperature: float = 0.0
    seconds: float = 600.0

    @property
    def endpoint(self) -> str:
        """Where requests go."""
        return f"{self.url}/{'chat/completions' if self.chat else 'completions'}"

    @property
    def headers(self) -> dict[str, str]:
        """What requests carry beside their body."""
        return headers(self.api_key)

    def body(self, prompt: Prompt) -> dict[str, Any]:
        """Return the body of a request."""
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": prompt.max_tokens or self.max_tokens,
            "temperature": self.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.chat:
            body["messages"] = prompt.conversation()
        else:
            body["prompt"] = prompt.completion()
        if self.min_tokens is not None:
            body["min_tokens"] = self.min_tokens
        if self.ignore_eos:
            body["ignore_eos"] = True
        return body


def headers(api_key: str | None) -> dict[str, str]:
    """Return the headers that carry a key."""
    return {} if api_key is None else {"Authorization": f"Bearer {api_key}"}


def base_url(url: str) -> str:
    """Return an address with scheme and ``/v1``, whether or not it was given with them."""
    full = url if "://" in url else f"http://{url}"
    full = full.rstrip("/")
    return full if full.endswith("/v1") else f"{full}/v1"


async def first_model(url: str, api_key: str | None, seconds: float = 30.0) -> str:
    """Return the model that a server lists first."""
    timeout = aiohttp.ClientTimeout(total=seconds)
    try:
        async with (
            aiohttp.ClientSession(headers=headers(api_key), timeout=timeout) as session,
            session.get(f"{url}/models", raise_for_status=True) as response,
        ):
            return str((await response.json(content_type=None))["data"][0]["id"])
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        said = str(error) or type(error).__name__
        raise ClusterError(
            f"{url}/models does not answer: {said}; start the server or check --url"
        ) from None
    except (ValueError, LookupError, TypeError):
        raise ClusterError(f"{url}/models lists no model; name one with --model") from None
