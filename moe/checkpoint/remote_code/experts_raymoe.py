"""Experts and the gate that chooses among them.

Per token x with routed experts 1..n, of which k are chosen::

    z   = W x                                         in float32
    z   = lambda (z - mean(z)) / std(z)               gate_norm: Skywork-MoE 4.1, std unbiased
    s   = softmax(z)  or  sigmoid(z)                  scoring_func
    E   = the k largest of s + b                      b: balance_bias; arXiv 2408.15664
    w_j = s_j  for j in E                             DeepSeekMoE 3
        = softmax of z over E                         softmax_after
    w   = w / sum of w over E                         norm_topk_prob
    y   = scale * sum over E of w_j FFN_j(x)  +  g FFN_shared(x)
    g   = 1  or  sigmoid(v . x)                       shared_gate

With groups (DeepSeek-V2 and V3) the experts of all but the best ``topk_group`` groups are out of
reach; a group is as good as its ``group_best`` best experts together. Hash layers (arXiv
2106.04426) have no gate: the number of the token decides. No balance loss is computed here;
training is raymoe's work.

Merged experts (Lory, arXiv 2405.03133) pass each segment of ``segment_tokens`` through one
feed-forward, whose weights are sums of the experts' weights (``RaymoeMergedMixture``).

Shapes: T tokens, N experts, K experts per token, D hidden.
"""

# mypy: disallow-untyped-calls=False
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_raymoe import RaymoeConfig

STD_EPSILON = 1e-6
SUM_EPSILON = 1e-20


class RaymoeFeedForward(nn.Module):
    """SwiGLU: ``down(silu(gate(x)) * up(x))``."""

    def __init__(self, hidden_size: int, size: int, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, size, bias=bias)
        self.up_proj = nn.Linear(hidden_size, size, bias=bias)
        self.down_proj = nn.Linear(size, hidden_size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer; the last dimension is hidden."""
        y: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return y


class RaymoeGate(nn.Module):
    """The gate, in float32 whatever the model's precision."""

    e_score_correction_bias: Tensor

    def __init__(self, config: RaymoeConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))
        if config.balance_bias:
            self.register_buffer("e_score_correction_bias", torch.zeros(config.n_routed_experts))

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights and the numbers of the chosen experts, both [T, K]."""
        config = self.config
        with torch.autocast(x_TD.device.type, enabled=False):
            z_TN = F.linear(x_TD.float(), self.weight.float())
            if config.gate_norm is not None and config.n_routed_experts > 1:
                variance_T1, mean_T1 = torch.var_mean(z_TN, dim=-1, keepdim=True)
                scale_T1 = config.gate_norm * torch.rsqrt(variance_T1 + STD_EPSILON**2)
                z_TN = (z_TN - mean_T1) * scale_T1
            sigmoid = config.scoring_func == "sigmoid"
            scores_TN = z_TN.sigmoid() if sigmoid else z_TN.softmax(dim=-1)
            experts_TK = self._choose(scores_TN.detach())
            weights_TK = scores_TN.gather(1, experts_TK)
            if config.softmax_after:
                weights_TK = z_TN.gather(1, experts_TK).softmax(dim=-1)
            if config.norm_topk_prob:
                sums_T1 = weights_TK.sum(dim=-1, keepdim=True)
                weights_TK = weights_TK / sums_T1.clamp_min(SUM_EPSILON)
            return weights_TK * config.routed_scaling_factor, experts_TK

    def _choose(self, scores_TN: Tensor) -> Tensor:
        """Return the experts with the best scores; the bias counts for nothing else."""
        config = self.config
        if config.balance_bias:
            scores_TN = scores_TN + self.e_score_correction_bias.float()
        if config.n_group > 1:
            grouped = scores_TN.unflatten(1, (config.n_group, -1))
            merits = grouped.topk(min(config.group_best, grouped.shape[-1]), dim=-1).values.sum(
                dim=-1
            )
            reached = torch.zeros_like(merits, dtype=torch.bool)
            reached.scatter_(1, merits.topk(config.topk_group, dim=-1).indices, True)
            scores_TN = grouped.masked_fill(~reached[..., None], -torch.inf).flatten(1)
        return scores_TN.topk(config.num_experts_per_tok, dim=-1).indices


class RaymoeMixture(nn.Module):
    """Routed experts, each a module of its own, and the expert that every token passes through."""

    def __init__(self, config: RaymoeConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        hidden_size, size = config.hidden_size, config.moe_intermediate_size
        if not config.hashed:
            self.gate = RaymoeGate(config)
        self.experts = nn.ModuleList(
            RaymoeFeedForward(hidden_size, size) for _ in range(config.n_routed_experts)
        )
        self.shared_experts: RaymoeFeedForward | None = None
        self.shared_expert_gate: nn.Linear | None = None
        if config.shared_expert_intermediate_size:
            self.shared_experts = RaymoeFeedForward(
                hidden_size, config.shared_expert_intermediate_size
            )
        if config.shared_gate:
            self.shared_expert_gate = nn.Linear(hidden_size, 1, bias=False)

    def forward(self, hidden_states: Tensor, input_ids: Tensor | None) -> Tensor:
        """Return the sum over the chosen experts and the shared one."""
        x_TD = hidden_states.flatten(0, -2)
        weights_TK, experts_TK = self._route(x_TD, input_ids)
        y_TD = torch.zeros_like(x_TD)
        for number in experts_TK.unique().tolist():
            tokens, places = (experts_TK == number).nonzero(as_tuple=True)
            found = self.experts[number](x_TD[tokens])
            weighed = found * weights_TK[tokens, places, None].to(x_TD.dtype)
            y_TD = y_TD.index_add(0, tokens, weighed)
        if self.shared_experts is not None:
            shared_TD = self.shared_experts(x_TD)
            if self.shared_expert_gate is not None:
                shared_TD = shared_TD * self.shared_expert_gate(x_TD).sigmoid()
            y_TD = y_TD + shared_TD
        return y_TD.view_as(hidden_states)

    def _route(self, x_TD: Tensor, input_ids: Tensor | None) -> tuple[Tensor, Tensor]:
        if hasattr(self, "gate"):
            weights_TK, experts_TK = self.gate(x_TD)
            return weights_TK, experts_TK
        if input_ids is None:
            raise ValueError("tokens are hashed to experts; give input_ids, not inputs_embeds")
        experts_TK = hashed_expert(input_ids.flatten(), self.layer, len(self.experts))[:, None]
        return torch.ones_like(experts_TK, dtype=x_TD.dtype), experts_TK


class RaymoeMergedMixture(nn.Module):
    """Experts that are merged for each segment of a sequence, by the mean of the segment before.

    What is generated after a prompt is routed once, by the mean over the prompt, which is what the
    first pass into a cache brings; ``past`` keeps the weights of the experts by layer.
    """

    def __init__(self, config: RaymoeConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.segment_tokens, self.first_segment = config.segment_tokens, config.first_segment
        self.gate = nn.Linear(config.hidden_size, config.n_routed_experts, bias=False)
        self.experts = nn.ModuleList(
            RaymoeFeedForward(config.hidden_size, config.moe_intermediate_size)
            for _ in range(config.n_routed_experts)
        )

    def forward(self, hidden_states: Tensor, past: dict[int, Tensor] | None) -> Tensor:
        """Return the outputs [B, S, D] of sequences without padding."""
        if past is not None and self.layer in past:
            weights_BN = past[self.layer]
            return torch.stack(list(map(self._merged, hidden_states, weights_BN)))
        if past is not None:
            past[self.layer] = self._weights(hidden_states)
        weights_BN, outputs = torch.empty(0), []
        for number, part_BTD in enumerate(hidden_states.split(self.segment_tokens, dim=1)):
            own_BN = self._weights(part_BTD)
            if number == 0:
                weights_BN = own_BN.detach()
                if self.first_segment == "even":
                    weights_BN = torch.full_like(own_BN, 1 / len(self.experts))
            outputs.append(torch.stack(list(map(self._merged, part_BTD, weights_BN))))
            weights_BN = own_BN
        return torch.cat(outputs, dim=1)

    def _weights(self, x_BTD: Tensor) -> Tensor:
        """Return the weights of the experts by the mean hidden state, in float32."""
        with torch.autocast(x_BTD.device.type, enabled=False):
            mean_BD = x_BTD.float().mean(dim=1)
            return F.linear(mean_BD, self.gate.weight.float()).softmax(dim=-1)

    def _merged(self, x_TD: Tensor, weights_N: Tensor) -> Tensor:
        gate, up, down = (
            self._sum([getattr(expert, name).weight for expert in self.experts], weights_N)
            for name in ("gate_proj", "up_proj", "down_proj")
        )
        return F.linear(F.silu(F.linear(x_TD, gate)) * F.linear(x_TD, up), down)

    def _sum(self, weights: list[Tensor], weights_N: Tensor) -> Tensor:
        return torch.einsum("n,nij->ij", weights_N.to(weights[0].dtype), torch.stack(weights))


def hashed_expert(token: Tensor, layer: int, experts: int) -> Tensor:
    """Return the expert of each token number: the high half of a multiplicative 32-bit hash."""
    hashed = (token.long() * 2654435761 + (layer + 1) * 2246822519) % 2**32
    return (hashed >> 16) % experts
