"""Training as one process would write it: a loop, torch's AdamW, torch's clipping."""

from pathlib import Path

import torch

from actors.commands import StepInput
from actors.optimizer import learning_rate
from moe.checkpoint.reader import Checkpoint
from moe.config.run import AdaptiveCoefficient, RunConfig
from moe.nn.build import build
from moe.nn.decoder import Decoder, Pass
from moe.nn.dispatch import Capacity


class PlainTraining:
    """Every step's loss and norm, and the model it leads to."""

    def __init__(self, checkpoint: Path, run: RunConfig) -> None:
        opened = Checkpoint.open(checkpoint)
        self.decoder: Decoder = build(opened.config, opened.read)
        self.run = run
        self.alphas = dict.fromkeys(range(opened.config.layers), 0.0)
        rule = run.balance.coefficient
        start = rule.start if isinstance(rule, AdaptiveCoefficient) else rule.value
        self.alphas = dict.fromkeys(self.alphas, start)
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.drop_rates: dict[int, float] = {}
        train = run.train
        decay = [p for p in self.decoder.parameters() if p.dim() > 1]
        rest = [p for p in self.decoder.parameters() if p.dim() <= 1]
        self.adam = torch.optim.AdamW(
            [
                {"params": decay, "weight_decay": train.weight_decay},
                {"params": rest, "weight_decay": 0.0},
            ],
            betas=(train.beta1, train.beta2),
            eps=train.epsilon,
            foreach=False,
        )

    def step(self, batch: StepInput) -> None:
        assert batch.tokens is not None
        assert batch.labels is not None
        self.adam.zero_grad(set_to_none=False)
        for parameter in self.decoder.parameters():
            parameter.grad = torch.zeros_like(parameter)
        size = self.run.train.micro_batch
        pieces = range(0, len(batch.tokens), size)
        drops: dict[int, list[float]] = {layer: [] for layer in self.alphas}
        total = 0.0
        for first in pieces:
            tokens = torch.from_numpy(batch.tokens[first : first + size])
            labels = torch.from_numpy(batch.labels[first : first + size]).long()
            routing = self.run.routing
            output = self.decoder(
                tokens,
                Pass(
                    Capacity(
                        routing.capacity_factor,
                        routing.drop_policy,
                        routing.virtual_capacity_factor,
                    ),
                    self.run.balance.loss,
                    {layer: alpha / len(pieces) for layer, alpha in self.alphas.items()},
                ),
            )
            loss = torch.nn.functional.cross_entropy(
                output.values.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum"
            )
            loss = loss / batch.label_count
            loss.backward()
            total += loss.item()
            for layer, statistics in output.statistics.items():
                drops[layer].append(statistics.drop_rate.item())
        norm = torch.nn.utils.clip_grad_norm_(self.decoder.parameters(), self.run.train.clip_norm)
        for group in self.adam.param_groups:
            group["lr"] = learning_rate(self.run.train, batch.step)
        self.adam.step()
        self.losses.append(total)
        self.norms.append(norm.item())
        self.drop_rates = {k: sum(v) / len(v) for k, v in drops.items() if v}
        self._adapt()

    def _adapt(self) -> None:
        rule = self.run.balance.coefficient
        if isinstance(rule, AdaptiveCoefficient) and self.drop_rates:
            for layer, alpha in self.alphas.items():
                wanted = min(rule.xi * self.drop_rates[layer], rule.maximum)
                self.alphas[layer] = rule.beta * alpha + (1 - rule.beta) * wanted
