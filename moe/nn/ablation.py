"""What a trained mixture loses without a part of its routing (DeepSeekMoE, sections 4.4 and 4.5).

Nothing is trained and no weight changes: for each token the best experts are passed over and the
next best are taken with their own scores; fewer or more experts are taken; or the shared expert
computes nothing, and one more routed expert is taken in its place.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor, nn

from moe.config.model import ModelConfig, MoeConfig
from moe.errors import ConfigError
from moe.nn.block import MixtureOfExperts
from moe.nn.decoder import Decoder
from moe.nn.router import Router, Routing, choose

_FORM = "mask=FRACTION, top-k=NUMBER, no-shared, or several of them with commas between"


@dataclass(frozen=True, slots=True)
class Ablation:
    """``mask`` is the part of the routed experts, the best of each token, that are passed over.

    ``top_k`` is how many experts a token takes; None: as the model, and one more without the shared
    expert. ``layer`` is the only layer that it applies to; None: all.
    """

    mask: Fraction = Fraction(0)
    top_k: int | None = None
    shared: bool = True
    layer: int | None = None

    @classmethod
    def parsed(cls, text: str) -> "Ablation":
        """Read ``mask=1/16``, ``top-k=4``, ``no-shared`` or several of them."""
        found = cls()
        for part in text.split(","):
            name, _, value = part.strip().partition("=")
            try:
                if name == "mask" and 0 < Fraction(value) < 1:
                    found = replace(found, mask=Fraction(value))
                elif name == "top-k" and int(value) > 0:
                    found = replace(found, top_k=int(value))
                elif part.strip() == "no-shared":
                    found = replace(found, shared=False)
                else:
                    raise ValueError(part)
            except (ValueError, ZeroDivisionError):
                raise ConfigError(f"no ablation {text!r}; give {_FORM}") from None
        return found

    @property
    def name(self) -> str:
        """What is asked, as it is written on the command line."""
        parts = [f"mask={self.mask}"] if self.mask else []
        parts += [f"top-k={self.top_k}"] if self.top_k is not None else []
        parts += [] if self.shared else ["no-shared"]
        return ",".join(parts)

    def check(self, config: ModelConfig) -> None:
        """Raise ConfigError for what a model has not, or what would leave it as it is."""
        moe = config.moe
        if moe is None or not moe.gated:
            kind = "dense" if moe is None else "hashed" if moe.hashed else "of merged experts"
            raise ConfigError(
                f"--ablate {self.name}: the model is {kind}, no router chooses; give a model with "
                "routers, or leave --ablate out"
            )
        if not self.shared and not moe.shared_size:
            raise ConfigError(
                f"--ablate {self.name}: the model has no shared expert; leave no-shared out"
            )
        reached = moe.experts // moe.groups * moe.top_groups
        passed, taken = self.passed(moe), self.taken(moe)
        if self.mask and not passed:
            raise ConfigError(
                f"--ablate {self.name}: that is less than one of {moe.experts} experts; give more"
            )
        if passed + taken > reached:
            raise ConfigError(
                f"--ablate {self.name}: {passed} experts passed over and {taken} taken are more "
                f"than the {reached} that a token reaches; give less"
            )
        if self.shared and not passed and taken == moe.top_k:
            raise ConfigError(
                f"--ablate {self.name}: a token takes {moe.top_k} experts as it is; give another "
                "number"
            )

    def passed(self, moe: MoeConfig) -> int:
        """Return the number of best experts that are passed over."""
        return round(self.mask * moe.experts)

    def taken(self, moe: MoeConfig) -> int:
        """Return the number of experts that a token takes."""
        return moe.top_k + (not self.shared) if self.top_k is None else self.top_k


@contextmanager
def ablated(decoder: Decoder, ablation: Ablation) -> Iterator[None]:
    """Run a model without a part of its routing inside the block."""
    layers = decoder.config.moe_layers if ablation.layer is None else (ablation.layer,)
    with ExitStack() as hooks:
        for layer in layers:
            for handle in _hooks(decoder.mixture(layer), ablation):
                hooks.callback(handle.remove)
        yield


def _hooks(
    mixture: MixtureOfExperts, ablation: Ablation
) -> Iterator[torch.utils.hooks.RemovableHandle]:
    moe = mixture.config
    other = replace(moe, top_k=ablation.taken(moe))

    def rerouted(router: Router, given: object, routing: Routing) -> Routing:
        return choose(routing.logits, other, router.balance_bias, passed_over=ablation.passed(moe))

    def silent(module: nn.Module, given: object, output: Tensor) -> Tensor:
        return torch.zeros_like(output)

    yield mixture.router.register_forward_hook(rerouted)
    if not ablation.shared:
        yield mixture.shared.register_forward_hook(silent)
