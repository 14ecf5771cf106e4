"""An adapter of ``peft`` as what the factors of a run begin with."""

from collections.abc import Mapping
from functools import lru_cache

from torch import Tensor

from moe.checkpoint.adapters.files import WEIGHTS
from moe.checkpoint.adapters.ours import Place, cut, lora_of, places
from moe.checkpoint.adapters.placing import PREFIX
from moe.checkpoint.adapters.settings import Settings, read_settings
from moe.checkpoint.header import read_header
from moe.checkpoint.overlaps import narrowed
from moe.checkpoint.shards import Shards
from moe.config.model import ModelConfig
from moe.config.tensors import TensorSlice
from moe.errors import CheckpointError
from moe.storage import Location

_SHOWN = 3


class Start:
    """Reads the factors of a run's model out of an adapter, which must have them all and no more.

    CheckpointError where rank, scale or targets are not those of the run.
    """

    def __init__(self, config: ModelConfig, directory: Location) -> None:
        self._rank = lora_of(config).rank
        self._places = places(config)
        path = directory / WEIGHTS
        if not path.is_file():
            raise CheckpointError(
                f"train.lora.start is {directory}, which has no {WEIGHTS}; give the directory that "
                "peft's save_pretrained or `raymoe checkpoint convert` wrote"
            )
        self._shards = Shards(dict.fromkeys(read_header(path).entries, path))
        _check_settings(config, directory, self._places, read_settings(directory))
        _check_tensors(directory, self._places, self._shards)
        self._stored = lru_cache(maxsize=2)(self._shards.read)

    def read(self, part: TensorSlice) -> Tensor:
        """Return a part of a factor in float32."""
        place = self._places[part.name]
        return narrowed(cut(place, self._stored(place.key), self._rank), part).float()


def _check_settings(
    config: ModelConfig, directory: Location, places: Mapping[str, Place], settings: Settings
) -> None:
    lora = lora_of(config)
    for place in places.values():
        found = settings.rank_of(place.module), settings.scale_of(place.module)
        if found != (lora.rank, lora.scale):
            raise CheckpointError(
                f"{directory} has rank {found[0]} and scale {found[1]:g} for {place.module}, "
                f"[train.lora] rank {lora.rank} and scale {lora.scale:g} (alpha / rank, or alpha / "
                "sqrt(rank) with rslora); give the adapter's rank, alpha and rslora"
            )


def _check_tensors(directory: Location, places: Mapping[str, Place], shards: Shards) -> None:
    expected = {place.key: place.shape for place in places.values()}
    lacking, more = sorted(expected.keys() - shards.names), sorted(shards.names - expected.keys())
    if lacking or more:
        said = [
            f"{what} {_named(names)}"
            for what, names in (("lacks", lacking), ("has", more))
            if names
        ]
        raise CheckpointError(
            f"{directory} is no start for train.lora.targets: it {' and '.join(said)}; give "
            "targets that the adapter has, or an adapter with these targets (experts as peft "
            "stacks them: target_parameters mlp.experts.gate_up_proj and mlp.experts.down_proj)"
        )
    for key, shape in expected.items():
        if shards.shape(key) != shape:
            raise CheckpointError(
                f"{key} in {directory} has shape {shards.shape(key)}, the run's model and rank ask "
                f"for {shape}; it was trained on another model, or with another rank"
            )


def _named(names: list[str]) -> str:
    shown = ", ".join(name.removeprefix(PREFIX) for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
