"""What keeps the experts of one share balanced: losses for a step, and what the step changes."""

from collections.abc import Mapping, Sequence

import torch

from actors.commands import LayerReport
from moe.config.balance_state import BalanceState
from moe.config.run import BiasCoefficient, RunConfig
from moe.nn import controller
from moe.nn.balance import Balance, Spread, balance_loss
from moe.nn.block import MixtureOfExperts
from moe.nn.controller import Observation
from moe.nn.decoder import Decoder
from moe.nn.totals import Totals


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

    def after(self, step: Mapping[int, Totals]) -> dict[int, LayerReport]:
        """Move to the next step; return the account of the one that is over, on all replicas."""
        seen = {layer: controller.observe(found) for layer, found in step.items()}
        reports = {layer: self._report(layer, seen[layer], step[layer]) for layer in seen}
        rule = self._section.coefficient
        for layer, state in self.states.items():
            self.states[layer] = controller.update(rule, state, seen[layer])
            if isinstance(rule, BiasCoefficient):
                self._move_bias(rule, layer, seen[layer].load)
        return reports

    @torch.no_grad()
    def _move_bias(self, rule: BiasCoefficient, layer: int, load: Sequence[int]) -> None:
        mixture = self._decoder.model.layers[str(layer)].mlp
        assert isinstance(mixture, MixtureOfExperts)
        bias_N = mixture.router.balance_bias
        assert bias_N is not None
        bias_N.copy_(controller.moved_bias(rule, bias_N, load))

    def _report(self, layer: int, seen: Observation, step: Totals) -> LayerReport:
        state = self.states.get(layer, BalanceState(0.0))
        balance = step.balance_loss / step.batches
        if self._section.scope == "global-batch":
            now = self._spread(controller.update(self._section.coefficient, state, seen))
            balance = balance_loss(self._section.loss, now).item()
        return LayerReport(
            load=seen.load,
            drop_rate=seen.drop_rate,
            coefficient=state.coefficient,
            balance_loss=balance,
            sharpness=step.sharpness / step.batches,
            z_loss=None if step.z_loss is None else step.z_loss / step.batches,
            device_loss=None if step.device_loss is None else step.device_loss / step.batches,
        )

    def _spread(self, state: BalanceState) -> Spread:
        device = next(self._decoder.parameters()).device
        shares_1N = torch.tensor([state.shares], device=device)
        return Spread(shares_1N, torch.tensor([state.probabilities], device=device))


def _balanced_layers(decoder: Decoder, run: RunConfig) -> list[int]:
    config = decoder.config
    if config.moe is None or config.moe.hashed or not run.balances:
        return []
    return [layer for layer in decoder.share.layer_numbers if config.has_experts(layer)]
