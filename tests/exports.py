"""Model directories with random tensors, written as an export writes them."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from moe.checkpoint.names import disk_name
from moe.checkpoint.remote import copy_remote_code
from moe.checkpoint.writer import write_json
from moe.config.families import write_config
from moe.config.model import ModelConfig
from moe.config.tensors import tensors


def random_tensors(config: ModelConfig, seed: int = 0) -> dict[str, Tensor]:
    """Return every tensor under its name on disk, large enough that no error hides in it."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for tensor in tensors(config):
        noise = torch.randn(tensor.shape, generator=generator)
        norm = tensor.name.endswith("norm.weight")
        made[disk_name(config.family, tensor.name)] = 1 + 0.2 * noise if norm else 0.3 * noise
    return made


def export(config: ModelConfig, path: Path, seed: int = 0) -> Path:
    """Write a directory and return it."""
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / "config.json", write_config(config, "float32"))
    save_file(random_tensors(config, seed), path / "model.safetensors", {"format": "pt"})
    copy_remote_code(config.family, path)
    return path
