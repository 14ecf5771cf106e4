"""Training as one process would write it: a loop, torch's AdamW, torch's clipping.

Losses on routers are added to the loss of each micro-batch, from what a hook saw every router do;
nothing is injected into the backward pass.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from actors.commands import StepInput
from actors.state.tuned import source_of
from actors.step.optimizer import learning_rate
from moe.checkpoint.reader import Checkpoint
from moe.config.run import AdaptiveCoefficient, BiasCoefficient, RunConfig
from moe.nn.block import MixtureOfExperts
from moe.nn.build import build
from moe.nn.decoder import Decoder, Pass
from moe.nn.dispatch import Capacity, drop_rate
from moe.nn.router import Routing


class Seen(NamedTuple):
    """How tokens spread over experts: share of assignments and mean probability, both [N]."""

    shares: Tensor
    means: Tensor


class PlainTraining:
    """Every step's loss and norm, and the model it leads to."""

    def __init__(self, checkpoint: Path, run: RunConfig) -> None:
        if run.train.tuning is None:
            model = Checkpoint.open(checkpoint)
            self.decoder: Decoder = build(model.config, model.read)
        else:
            opened = source_of(run, None).open()
            self.decoder = build(opened.config, opened.read_weight)
        self.run = run
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.drop_rates: dict[int, float] = {}
        self.alphas = dict.fromkeys(self._balanced(), self._start())
        self.before: dict[int, Seen] = {}
        self.balance_losses: dict[int, float] = {}
        self.extras: dict[str, dict[int, float]] = {}
        self._routings: dict[int, Routing] = {}
        self._watch()
        train = run.train
        trained = [p for p in self.decoder.parameters() if p.requires_grad]
        self.adam = torch.optim.AdamW(
            [
                {"params": [p for p in trained if p.dim() > 1], "weight_decay": train.weight_decay},
                {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
            ],
            betas=(train.beta1, train.beta2),
            eps=train.epsilon,
            foreach=False,
        )

    def step(self, batch: StepInput) -> None:
        assert batch.tokens is not None
        assert batch.labels is not None
        trained = [p for p in self.decoder.parameters() if p.requires_grad]
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        size = self.run.train.micro_batch
        pieces = range(0, len(batch.tokens), size)
        drops: dict[int, list[float]] = {}
        weights: list[int] = []
        kept: dict[int, list[Routing]] = {}
        self.extras, self.balance_losses = {"z": {}, "device": {}}, {}
        total = 0.0
        for first in pieces:
            loss, rates = self._passed(batch, slice(first, first + size))
            loss = loss / batch.label_count
            total += loss.item()
            for layer, routing in self._routings.items():
                loss = loss + self._on_router(layer, routing, size) / len(pieces)
                kept.setdefault(layer, []).append(routing)
            loss.backward()
            routings = list(self._routings.values())
            tokens = len(routings[0].experts) if routings else 1
            weights.append(tokens)
            for layer, rate in rates.items():
                drops.setdefault(layer, []).append(rate * tokens)
        norm = torch.nn.utils.clip_grad_norm_(trained, self.run.train.clip_norm)
        for group in self.adam.param_groups:
            group["lr"] = learning_rate(self.run.train, batch.step)
        self.adam.step()
        self.losses.append(total)
        self.norms.append(norm.item())
        self.drop_rates = {k: sum(v) / sum(weights) for k, v in drops.items()}
        self.extras = {
            name: {layer: value / len(pieces) for layer, value in found.items()}
            for name, found in self.extras.items()
        }
        self._adapt(kept)

    def _passed(self, batch: StepInput, rows: slice) -> tuple[Tensor, dict[int, float]]:
        """Return the summed loss of a micro-batch, and the drop rate of each layer."""
        assert batch.tokens is not None
        assert batch.labels is not None
        tokens = torch.from_numpy(batch.tokens[rows])
        labels = torch.from_numpy(batch.labels[rows]).long()
        if batch.documents is not None:
            return self._one_by_one(tokens, labels, torch.from_numpy(batch.documents[rows]))
        output = self.decoder(tokens, Pass(self._capacity()))
        rates = {layer: found.drop_rate.item() for layer, found in output.statistics.items()}
        return summed_loss(output.values, labels), rates

    def _one_by_one(
        self, tokens: Tensor, labels: Tensor, documents: Tensor
    ) -> tuple[Tensor, dict[int, float]]:
        """Compute each document as a row of its own, and what routers did with all of them."""
        total, kept = torch.zeros(()), dict[int, list[Routing]]()
        for row, numbers in enumerate(documents):
            for number in range(int(numbers.max()) + 1):
                own = numbers == number
                output = self.decoder(tokens[row, own][None], Pass(self._capacity()))
                total = total + summed_loss(output.values, labels[row, own][None])
                for layer, routing in self._routings.items():
                    kept.setdefault(layer, []).append(routing)
        for layer, parts in kept.items():
            self._routings[layer] = Routing(*(torch.cat(each) for each in zip(*parts, strict=True)))
        factor = self._capacity().virtual_factor
        return total, {
            n: drop_rate(load(each), factor).item() for n, each in self._routings.items()
        }

    def _on_router(self, layer: int, routing: Routing, sequences: int) -> Tensor:
        """Return the losses on one router with their coefficients."""
        section, total = self.run.balance, torch.zeros(())
        if section.z_loss:
            z = routing.logits.exp().sum(1).log().square().mean()
            total = total + section.z_loss * self._noted("z", layer, z)
        if layer not in self.alphas:
            return total
        parts = [routing]
        if section.scope == "sequence":
            chunks = [part.chunk(sequences) for part in routing]
            parts = [Routing(*own) for own in zip(*chunks, strict=True)]
        known = self.before.get(layer) if section.scope == "global-batch" else None
        losses = [self._balance(spread(part), known) for part in parts]
        total = total + self.alphas[layer] * torch.stack(losses).mean()
        if section.device_loss:
            found = torch.stack([self._device(spread(part), known) for part in parts]).mean()
            total = total + section.device_loss * self._noted("device", layer, found)
        return total

    def _noted(self, name: str, layer: int, loss: Tensor) -> Tensor:
        self.extras[name][layer] = self.extras[name].get(layer, 0.0) + loss.item()
        return loss

    def _balance(self, now: Seen, known: Seen | None) -> Tensor:
        experts = len(now.means)
        if self.run.balance.loss == "switch":
            return experts * ((known or now).shares * now.means).sum()
        if known is None:
            return (1 / experts - now.means).square().sum()
        return (2 * (known.means - 1 / experts) * now.means).sum()

    def _device(self, now: Seen, known: Seen | None) -> Tensor:
        experts, groups = len(now.means), self.run.balance.device_groups
        rows = torch.arange(experts).tensor_split(groups)
        shares = (known or now).shares
        return torch.stack(
            [experts * shares[row].mean() * now.means[row].sum() for row in rows]
        ).sum()

    def _capacity(self) -> Capacity:
        routing = self.run.routing
        return Capacity(
            routing.capacity_factor,
            routing.drop_policy,
            routing.virtual_capacity_factor,
            routing.choose,
            routing.reweigh,
        )

    def _watch(self) -> None:
        def keep(layer: int, routing: Routing) -> None:
            self._routings[layer] = routing

        for layer, block in self.decoder.model.layers.items():
            if isinstance(block.mlp, MixtureOfExperts):
                number = int(layer)
                block.mlp.router.register_forward_hook(
                    lambda module, inputs, routing, number=number: keep(number, routing)
                )

    def _balanced(self) -> list[int]:
        config = self.decoder.config
        if config.moe is None or not config.moe.gated or self.run.routing.choose == "experts":
            return []
        return [layer for layer in range(config.layers) if layer not in config.moe.dense_layers]

    def _start(self) -> float:
        rule = self.run.balance.coefficient
        return rule.start if isinstance(rule, AdaptiveCoefficient) else rule.value

    @torch.no_grad()
    def _adapt(self, kept: dict[int, list[Routing]]) -> None:
        rule = self.run.balance.coefficient
        for layer, alpha in self.alphas.items():
            whole = Routing(*(torch.cat(parts) for parts in zip(*kept[layer], strict=True)))
            self.before[layer] = spread(whole)
            self.balance_losses[layer] = self._balance(self.before[layer], None).item()
            if isinstance(rule, AdaptiveCoefficient):
                wanted = min(rule.xi * self.drop_rates[layer], rule.maximum)
                self.alphas[layer] = rule.beta * alpha + (1 - rule.beta) * wanted
            if isinstance(rule, BiasCoefficient):
                shares = self.before[layer].shares
                short = (whole.experts.numel() * (1 / len(shares) - shares)).round(decimals=3)
                self.decoder.model.layers[str(layer)].mlp.router.balance_bias += (
                    rule.rate * short.sign()
                )


def summed_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum"
    )


def load(routing: Routing) -> Tensor:
    return torch.nn.functional.one_hot(routing.experts, routing.scores.shape[1]).sum((0, 1))


def spread(routing: Routing) -> Seen:
    counts = load(routing).float()
    return Seen(counts / counts.sum(), routing.probabilities.mean(0))
