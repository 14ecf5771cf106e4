"""What torch's attention is asked."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Asked(TorchFunctionMode):
    """Keeps what torch's attention is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Sequence[Tensor], dict[str, Any]]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            self.calls.append((args, kwargs))
        return func(*args, **(kwargs or {}))
