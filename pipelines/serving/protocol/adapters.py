"""Requests that load and drop adapters, as vLLM has them."""

from pydantic import Field

from pipelines.serving.protocol.fields import UnicodeText
from pipelines.serving.protocol.options import Options


class LoadAdapterRequest(Options):
    """The body of ``/v1/load_lora_adapter``; ``lora_path`` is a directory that the ranks reach.

    With ``load_inplace``, an adapter of the same name is replaced.
    """

    lora_name: UnicodeText = Field(min_length=1)
    lora_path: UnicodeText = Field(min_length=1)
    load_inplace: bool = False


class UnloadAdapterRequest(Options):
    """The body of ``/v1/unload_lora_adapter``."""

    lora_name: UnicodeText = Field(min_length=1)
