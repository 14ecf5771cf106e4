"""Which tensors of an adapter's file add to which weights.

peft names the matrices of a module after it, in the names of the model's family. It knows the
experts of a layer in two ways: as modules of their own, or, since transformers keeps them in two
stacked parameters, as the rows of one A and the columns of one B for all experts together::

    block_sparse_moe.experts.3.w1.lora_A.weight          [R, K]
    mlp.experts.base_layer.lora_A.weight                 [experts * R, K]
    mlp.experts.lora_B.weight                            [N, R * experts]

Of two stacked parameters, peft wraps one around the other; their shapes tell which is which.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from moe.checkpoint.adapters.settings import Settings
from moe.checkpoint.names import disk_name, fused_name
from moe.config.adapters import Group, inputs, outputs
from moe.config.model import ModelConfig
from moe.config.tensors import TensorSlice
from moe.errors import CheckpointError

PREFIX = "base_model.model."
DOWN, UP = ".lora_A.weight", ".lora_B.weight"

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Factors:
    """Two matrices of a file that add to a group, or to one member of it.

    ``member`` None: to all of the group. ``expert`` is not None where they hold all ``experts`` of
    a layer. ``rank`` is that of one expert.
    """

    down: str
    up: str
    rank: int
    scale: float
    member: int | None = None
    expert: int | None = None
    experts: int = 1


class Placing:
    """Finds the factors of groups; ``shapes`` has the tensors of the file."""

    def __init__(self, config: ModelConfig, settings: Settings, shapes: Shapes) -> None:
        self._config = config
        self._settings = settings
        self._shapes = shapes

    def factors(self, group: Group) -> tuple[Factors, ...]:
        """Return what adds to a group of whole weights; CheckpointError for a wrong shape."""
        own = (self._of_member(tensor, number) for number, tensor in enumerate(group))
        return (*(each for each in own if each is not None), *self._stacked(group))

    def _of_member(self, tensor: TensorSlice, number: int) -> Factors | None:
        for module in _modules(self._config.family, tensor):
            down, up = f"{PREFIX}{module}{DOWN}", f"{PREFIX}{module}{UP}"
            if down in self._shapes or up in self._shapes:
                rank = self._settings.rank_of(module)
                columns, rows = tensor.shape[1], tensor.shape[0]
                self._check(down, (rank, columns))
                self._check(up, (rows, rank))
                return Factors(down, up, rank, self._settings.scale_of(module), number)
        return None

    def _stacked(self, group: Group) -> Iterator[Factors]:
        role, experts = group[0].role, self._config.experts
        parameter = fused_name(role)
        if parameter is None:
            return
        container = parameter.rpartition(".")[0]
        rank = self._settings.rank_of(parameter)
        sizes = (experts * rank, inputs(group)), (outputs(group), rank * experts)
        for wrapped in ("", ".base_layer"):
            down, up = f"{PREFIX}{container}{wrapped}{DOWN}", f"{PREFIX}{container}{wrapped}{UP}"
            if (self._shapes.get(down), self._shapes.get(up)) == sizes:
                scale = self._settings.scale_of(parameter)
                yield Factors(down, up, rank, scale, None, role.expert, experts)

    def _check(self, name: str, wanted: tuple[int, int]) -> None:
        found = self._shapes.get(name)
        if found != wanted:
            said = "is missing" if found is None else f"has shape {found}"
            raise CheckpointError(
                f"{name} {said}; this model and the adapter's settings ask for {wanted}: it was "
                "trained on another model, or is incomplete"
            )


def _modules(family: str, tensor: TensorSlice) -> tuple[str, ...]:
    """Return the names of a weight's module: on disk, and in transformers, where routers of all
    families are alike.
    """
    names = (disk_name(family, tensor.name), disk_name("qwen2_moe", tensor.name))
    return tuple(dict.fromkeys(name.removesuffix(".weight") for name in names))
