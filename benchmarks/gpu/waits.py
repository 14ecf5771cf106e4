"""A MoE layer must not make the host wait, and must not launch too many kernels.

torch raises on calls that wait (``set_sync_debug_mode``), but not on all of them: collectives and
copies from pageable memory are not covered. The layer has run before, so that handles and memory
are there. A CPU has nothing to wait for: there the same passes run and nothing is judged; nor are
they judged on a GPU for which torch has no kernel of grouped products and waits itself.
"""

import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.gpu.kernels import kernels
from benchmarks.gpu.layers import losses, one_layer, random_weights, trained
from benchmarks.gpu.rows import Figure, Row, Setting, at_most, attempted, holds
from benchmarks.gpu.timing import finish
from moe.nn.balance import Balance
from moe.nn.build import build
from moe.nn.decoder import PLAIN, Pass
from moe.nn.dispatch import Capacity
from moe.nn.experts.grouped import in_one_kernel
from moe.nn.layer_pass import LayerPass

LAUNCHES = 120
"""Of the mixture of experts of a layer, forward and backward: router, order, experts, losses."""

_WAITS = "synchronizing"
_WARM = 2

Forward = Callable[[Tensor], Tensor]


def part(setting: Setting) -> Iterator[Row]:
    """Yield the waits of a layer under every option of routing, then its launches."""
    layer = _Layer(setting)
    for name, how in _options(layer.balance).items():
        yield attempted(f"waits, {name}", partial(_waits, layer, f"waits, {name}", how))
    yield attempted("launches", partial(_launches, layer))


def judged(setting: Setting) -> bool:
    """Return whether waits and launches have bars on a device."""
    return setting.cuda and in_one_kernel(setting.torch_device)


def _waits(layer: "_Layer", what: str, how: Pass) -> Row:
    found = layer.waits(layer.block(how))
    bars = (holds("no wait", found["waits"] == 0),) if judged(layer.setting) else ()
    return Row(what, found, bars)


def _launches(layer: "_Layer") -> Row:
    mixture, block = layer.launches(layer.mixture()), layer.launches(layer.block(PLAIN))
    bars = (at_most("launches of the mixture", mixture, LAUNCHES),) if judged(layer.setting) else ()
    return Row("launches", {"mixture": mixture, "whole block": block}, bars)


def _options(balance: Balance) -> dict[str, Pass]:
    plain = replace(PLAIN, balance=balance)
    return {
        "dropless": plain,
        "capacity by probability": replace(plain, capacity=Capacity(1.0)),
        "capacity by position": replace(plain, capacity=Capacity(1.0, policy="position")),
        "experts choose": replace(PLAIN, capacity=Capacity(1.0, chooser="experts")),
        "losses over sequences": replace(plain, balance=replace(balance, scope="sequence")),
        "recomputed": replace(plain, recompute=frozenset((0,))),
    }


class _Layer:
    """One layer of the model, and tokens to go through it forward and backward."""

    def __init__(self, setting: Setting) -> None:
        config, share = one_layer(setting)
        self.balance = losses(config)
        self.setting = setting
        read, device = random_weights(setting), setting.torch_device
        self._decoder = trained(build(config, read, share, None, device, torch.bfloat16))
        size = (2, 8, config.hidden_size) if setting.tiny else (2, 2048, config.hidden_size)
        self._x_BSD = torch.randn(size, device=setting.torch_device)

    def block(self, how: Pass) -> Forward:
        """Return the whole layer: attention, norms, experts."""

        def forward(x_BSD: Tensor) -> Tensor:
            values: Tensor = self._decoder(x_BSD, how).values
            return values

        return forward

    def mixture(self) -> Forward:
        """Return the mixture of experts alone, with its losses."""
        mixture, how = self._decoder.mixture(0), LayerPass(balance=self.balance)

        def forward(x_BSD: Tensor) -> Tensor:
            hidden: Tensor = mixture(x_BSD.bfloat16(), how).hidden
            return hidden

        return forward

    def launches(self, forward: Forward) -> int:
        """Count what the device is given for one pass forward and backward."""
        for _ in range(_WARM):
            self._pass(forward)
        return len(kernels(self.setting, lambda: self._pass(forward)))

    def waits(self, forward: Forward) -> dict[str, Figure]:
        """Return how often a pass waits, and where it does so first."""
        for _ in range(_WARM):
            self._pass(forward)
        finish(self.setting)
        if not self.setting.cuda:
            return {"waits": None}
        try:
            torch.cuda.set_sync_debug_mode("error")
            self._pass(forward)
        except RuntimeError as error:
            if _WAITS not in str(error):
                raise
            return {"waits": self._counted(forward), "first": _place(error)}
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return {"waits": 0}

    def _counted(self, forward: Forward) -> int:
        """Count the waits of a pass by the warnings that torch gives of each."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            self._pass(forward)
            torch.cuda.set_sync_debug_mode("default")
        return sum(_WAITS in str(each.message) for each in caught)

    def _pass(self, forward: Forward) -> None:
        """Go forward and backward once, adding to the gradients that are there."""
        y_BSD = forward(self._x_BSD.detach().requires_grad_())
        torch.autograd.backward(y_BSD, torch.ones_like(y_BSD))


def _place(error: BaseException) -> str:
    """Return the innermost line of ours that an error passed."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/moe/" in frame.filename]
    last = (ours or frames)[-1]
    return f"{Path(last.filename).name}:{last.lineno} {last.line}"
