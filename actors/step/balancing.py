"""What keeps the experts of one share balanced: losses for a step, and what the step changes."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from actors.commands import LayerReport
from actors.device import uploaded
from moe.config.balance_state import BalanceState
from moe.config.layer_statistics import LayerStatistics
from moe.config.run import BiasCoefficient, RunConfig
from moe.nn import controller
from moe.nn.balance import Balance, Spread
from moe.nn.decoder import Decoder


class RankBalancer:
    """Holds the state of each layer whose tokens choose by a gate, which losses or biases move.

    Every rank of a gang sees the same and comes to the same state by itself. States are numbers of
    the host; those of all layers go to the device in one copy.
    """

    def __init__(self, decoder: Decoder, run: RunConfig) -> None:
        self.states = dict.fromkeys(
            _balanced_layers(decoder, run), controller.initial(run.balance.coefficient)
        )
        self._decoder = decoder
        self._section = run.balance
        self._micro_batches = run.train.micro_batches

    def losses(self) -> Balance:
        """Return the losses of the next step."""
        section = self._section
        return Balance(
            kind=section.loss,
            scope=section.scope,
            coefficients={layer: state.coefficient for layer, state in self.states.items()},
            z=section.z_loss,
            device=section.device_loss,
            device_groups=section.device_groups,
            before=self._before(),
            weight=1.0 / self._micro_batches,
        )

    def after(self, step: Mapping[int, LayerStatistics]) -> dict[int, LayerReport]:
        """Move to the next step; return the reports of the one that is over, on all replicas."""
        reports = {layer: self._report(layer, seen) for layer, seen in step.items()}
        rule = self._section.coefficient
        for layer, state in self.states.items():
            self.states[layer] = controller.update(rule, state, step[layer])
        if isinstance(rule, BiasCoefficient):
            self._move_biases(rule, step)
        return reports

    @torch.no_grad()
    def _move_biases(self, rule: BiasCoefficient, step: Mapping[int, LayerStatistics]) -> None:
        loads_LN = torch.tensor([step[layer].load for layer in self.states], dtype=torch.float64)
        for layer, load_N in zip(self.states, self._uploaded(loads_LN), strict=True):
            bias_N = self._decoder.mixture(layer).router.balance_bias
            assert bias_N is not None
            bias_N.copy_(controller.moved_bias(rule, bias_N, load_N))

    def _report(self, layer: int, seen: LayerStatistics) -> LayerReport:
        state = self.states.get(layer, BalanceState(0.0))
        if self._section.scope == "global-batch":
            now = controller.update(self._section.coefficient, state, seen)
            seen = replace(seen, balance_loss=controller.loss_of(self._section.loss, now))
        return LayerReport(coefficient=state.coefficient, **seen.reported)

    def _before(self) -> dict[int, Spread]:
        """Return the spread of the last step by layer, if the losses look at it."""
        known = {layer: state for layer, state in self.states.items() if state.shares}
        if self._section.scope != "global-batch" or not known:
            return {}
        numbers = [((state.shares,), (state.probabilities,)) for state in known.values()]
        spreads_L21N = self._uploaded(torch.tensor(numbers))
        return {layer: Spread(*both) for layer, both in zip(known, spreads_L21N, strict=True)}

    def _uploaded(self, numbers: Tensor) -> Tensor:
        return uploaded(numbers, next(self._decoder.parameters()).device)


def _balanced_layers(decoder: Decoder, run: RunConfig) -> list[int]:
    config = decoder.config
    if config.moe is None or not config.moe.gated or not run.balances:
        return []
    return [layer for layer in decoder.share.layer_numbers if config.has_experts(layer)]
