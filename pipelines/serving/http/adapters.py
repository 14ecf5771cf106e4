"""Routes that load and drop adapters while the server answers."""

import asyncio
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

from pipelines.serving.adapters import Adapters
from pipelines.serving.protocol.adapters import LoadAdapterRequest, UnloadAdapterRequest


def add_adapters(app: FastAPI, adapters: Adapters, errors: dict[int | str, dict[str, Any]]) -> None:
    """Add the routes; whoever may send requests may have the ranks read any adapter they reach."""

    @app.post("/v1/load_lora_adapter", response_class=PlainTextResponse, responses=errors)
    async def load(body: LoadAdapterRequest) -> str:
        name, directory = body.lora_name, Path(body.lora_path)
        await asyncio.to_thread(adapters.load, name, directory, body.load_inplace)
        return f"Success: LoRA adapter '{name}' added successfully."

    @app.post("/v1/unload_lora_adapter", response_class=PlainTextResponse, responses=errors)
    async def unload(body: UnloadAdapterRequest) -> str:
        await asyncio.to_thread(adapters.unload, body.lora_name)
        return f"Success: LoRA adapter '{body.lora_name}' removed successfully."
