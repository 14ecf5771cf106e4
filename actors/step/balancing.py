"""What keeps the experts of one share balanced: losses for a step, and what the step changes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from actors.commands import LayerReport
from moe.config.balance_state import BalanceState
from moe.config.layer_statistics import LayerStatistics
from moe.config.run import BiasCoefficient, RunConfig
from moe.nn import controller
from moe.nn.balance import Balance, Spread, balance_loss
from moe.nn.decoder import Decoder


class RankBalancer:
    """Holds the state of each layer whose tokens choose by a gate, which losses or biases move.

    Every rank of a gang sees the same and comes to the same state by itself.
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
            before={layer: self._spread(s) for layer, s in self.states.items() if s.shares},
            weight=1.0 / self._micro_batches,
        )

    def after(self, step: Mapping[int, LayerStatistics]) -> dict[int, LayerReport]:
        """Move to the next step; return the reports of the one that is over, on all replicas."""
        reports = {layer: self._report(layer, seen) for layer, seen in step.items()}
        rule = self._section.coefficient
        for layer, state in self.states.items():
            self.states[layer] = controller.update(rule, state, step[layer])
            if isinstance(rule, BiasCoefficient):
                self._move_bias(rule, layer, step[layer].load)
        return reports

    @torch.no_grad()
    def _move_bias(self, rule: BiasCoefficient, layer: int, load: Sequence[int]) -> None:
        bias_N = self._decoder.mixture(layer).router.balance_bias
        assert bias_N is not None
        bias_N.copy_(controller.moved_bias(rule, bias_N, load))

    def _report(self, layer: int, seen: LayerStatistics) -> LayerReport:
        state = self.states.get(layer, BalanceState(0.0))
        if self._section.scope == "global-batch":
            now = self._spread(controller.update(self._section.coefficient, state, seen))
            loss = balance_loss(self._section.loss, now).item()
            seen = replace(seen, balance_loss=loss)
        return LayerReport(coefficient=state.coefficient, **seen.reported)

    def _spread(self, state: BalanceState) -> Spread:
        device = next(self._decoder.parameters()).device
        shares_1N = torch.tensor([state.shares], device=device)
        return Spread(shares_1N, torch.tensor([state.probabilities], device=device))


def _balanced_layers(decoder: Decoder, run: RunConfig) -> list[int]:
    config = decoder.config
    if config.moe is None or config.moe.hashed or not run.balances:
        return []
    return [layer for layer in decoder.share.layer_numbers if config.has_experts(layer)]
