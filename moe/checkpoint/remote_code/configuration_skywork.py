"""The architecture of a dense Skywork model for transformers (version 5)."""

# mypy: disallow-untyped-calls=False
from transformers import LlamaConfig


class SkyworkConfig(LlamaConfig):
    """Llama's keys."""

    model_type = "skywork"

    def validate_architecture(self) -> None:
        """Where ``head_dim`` is given, heads need not divide the hidden size."""
