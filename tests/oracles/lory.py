"""Lory's layer (arXiv 2405.03133) written plainly, token by token: what ours is held against.

It shares no code with the project. A sequence is [S, D]; an expert is (gate [F, D], up [F, D], down
[D, F]); ``router`` is [N, D].
"""

import torch
from torch import Tensor

Expert = tuple[Tensor, Tensor, Tensor]


def training(
    x: Tensor, router: Tensor, experts: list[Expert], length: int, first: str = "even"
) -> Tensor:
    """Return the outputs of one sequence, every segment routed by the one before it."""
    outputs = []
    for start in range(0, len(x), length):
        if start:
            weights = _weights(x[start - length : start], router)
        elif first == "own":
            weights = _weights(x[:length], router).detach()
        else:
            weights = torch.full((len(experts),), 1 / len(experts), dtype=x.dtype)
        outputs += [_token(row, weights, experts) for row in x[start : start + length]]
    return torch.stack(outputs)


def after_prompt(x: Tensor, prompt: Tensor, router: Tensor, experts: list[Expert]) -> Tensor:
    """Return the outputs of tokens that are generated, routed once by the whole prompt."""
    weights = _weights(prompt, router)
    return torch.stack([_token(row, weights, experts) for row in x])


def _weights(x: Tensor, router: Tensor) -> Tensor:
    """Return the softmax of the gate of the mean hidden state."""
    mean = sum(x[1:], start=x[0]) / len(x)
    powers = torch.stack([(row * mean).sum() for row in router]).exp()
    return powers / powers.sum()


def _token(x: Tensor, weights: Tensor, experts: list[Expert]) -> Tensor:
    gate, up, down = (
        sum(weight * expert[part] for weight, expert in zip(weights, experts, strict=True))
        for part in range(3)
    )
    inner = gate @ x
    return down @ (inner * torch.sigmoid(inner) * (up @ x))
