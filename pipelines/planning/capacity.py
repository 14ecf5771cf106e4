"""What a plan gives beside seconds: tokens it holds in serving, FLOP/s it reaches of the peak.

Useful FLOPs of a token in training, forward and backward (``papers.md`` 5.3, the usual count):

    6 A  +  12 L Q S        A active parameters, L layers, Q query columns, S the sequence length

Nothing recomputed is useful, and causal attention counts as if each token saw the whole sequence.
"""

from collections.abc import Sequence

from moe.config.model import ModelConfig
from moe.config.tensors import active_parameters
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import Device, Inventory
from moe.planning.devices.rates import GPUS
from moe.planning.plan.plan import Plan
from moe.planning.prediction.positions import plan_positions
from moe.planning.prediction.predict import Prediction
from moe.planning.stages.member import Member, MemberCosts


def useful_flops(config: ModelConfig, sequence_length: int) -> float:
    """Return the FLOPs of a token in training."""
    attention = 12 * config.layers * config.heads * config.head_size * sequence_length
    return float(6 * active_parameters(config) + attention)


def flops_per_second(config: ModelConfig, predicted: Prediction) -> float:
    """Return the useful FLOP/s that a plan reaches in training."""
    each = useful_flops(config, predicted.workload.sequence_length)
    return predicted.tokens_per_second * each


def peak_flops(
    inventory: Inventory, devices: Sequence[Device], sixteen_bit: bool
) -> tuple[float, str]:
    """Return the FLOP/s of devices at best, and what that is: data sheets, or what they sustain.

    A device without a data sheet, as a CPU, counts with the rate of its products.
    """
    known = [device for device in devices if device.kind in GPUS]
    if len(known) < len(devices):
        rates = [inventory.pace(device, sixteen_bit).rates.flops_per_second for device in devices]
        return sum(rates), "what its matrix products sustain (a CPU has no data-sheet peak here)"
    gpus = [GPUS[device.kind] for device in devices]
    peaks = (gpu.sixteen_bit_flops if sixteen_bit else gpu.float32_flops for gpu in gpus)
    return sum(peaks), f"data-sheet peak in {'16-bit' if sixteen_bit else 'float32'}"


def data_sheet_flops(plan: Plan, sixteen_bit: bool) -> float:
    """Return the FLOP/s of all GPUs of a plan at best; 0 where one has no data sheet here."""
    kinds = [rank.kind for stage in plan.stages for rank in stage.ranks]
    if any(kind not in GPUS for kind in kinds):
        return 0.0
    gpus = [GPUS[kind] for kind in kinds]
    peaks = (gpu.sixteen_bit_flops if sixteen_bit else gpu.float32_flops for gpu in gpus)
    return plan.replicas * sum(peaks)


def tokens_held(config: ModelConfig, plan: Plan, inventory: Inventory, workload: Workload) -> int:
    """Return how many tokens' keys and values fit on the fullest rank of a serving plan."""
    known = {device.name: device for device in inventory.devices}
    positions = plan_positions(plan, workload)
    held = []
    for seat in plan.seats.of_replica(0):
        devices = tuple(known[name] for name in plan.rank(seat).devices)
        costs = MemberCosts(config, inventory, workload, Member(plan.share(seat), devices))
        held.append(costs.tokens(plan.stages[seat.stage].layers, positions[seat.stage]))
    return min(held)


def devices_used(plan: Plan, inventory: Inventory) -> list[Device]:
    """Return the devices that a plan uses, of all replicas."""
    known = {device.name: device for device in inventory.devices}
    names = [name for stage in plan.stages for rank in stage.ranks for name in rank.devices]
    return [known.get(name) or inventory.device(name) for name in names]
