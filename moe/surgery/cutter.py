"""The cut of every layer of one conversion, made when needed and kept while needed."""

from functools import cached_property

from torch import Tensor

from moe.checkpoint.reader import Checkpoint
from moe.config.model import ModelConfig
from moe.config.tensors import TensorSlice
from moe.surgery.calibration import Calibration
from moe.surgery.method import Site
from moe.surgery.options import UpcycleOptions
from moe.surgery.part import Cut, Part
from moe.surgery.streamed import activities

_WHOLE = Part()


class Cutter:
    """Calls the method once for each layer; for methods that measure, runs the dense model once."""

    def __init__(
        self,
        dense: Checkpoint,
        config: ModelConfig,
        options: UpcycleOptions,
        calibration: Calibration | None,
    ) -> None:
        assert config.moe is not None
        self._dense = dense
        self._config = config
        self._moe = config.moe
        self._options = options
        self._gain = options.method.gain(config.moe) / config.moe.scale
        self._calibration = calibration
        self._last: tuple[int, Cut] | None = None

    def cut(self, layer: int) -> Cut:
        """Return the cut of the feed-forward of a layer, including the gain."""
        if self._calibration is not None:
            return self._measured[layer]
        if self._last is None or self._last[0] != layer:
            self._last = layer, self._made(self._site(layer))
        return self._last[1]

    def part(self, child: TensorSlice) -> Part:
        """Return the part of its parent that a tensor of the new model holds."""
        role = child.role
        if role.layer is None or (role.expert is None and not role.shared):
            return _WHOLE
        cut = self.cut(role.layer)
        if role.expert is not None:
            return cut.experts[role.expert]
        assert cut.shared is not None
        return cut.shared

    @cached_property
    def _measured(self) -> dict[int, Cut]:
        assert self._calibration is not None
        tokens, layers = self._calibration.tokens, self._config.moe_layers
        return dict(map(self._measure, activities(self._dense, tokens, layers)))

    def _measure(self, found: tuple[int, Tensor]) -> tuple[int, Cut]:
        """Cut one layer; free its activity before the activity of the next layer is computed."""
        layer, activity = found
        return layer, self._made(self._site(layer, activity))

    def _site(self, layer: int, activity: Tensor | None = None) -> Site:
        return Site(layer, self._config.ffn_size, self._moe, self._options.seed, activity)

    def _made(self, site: Site) -> Cut:
        """Cut a layer; the part of the gain that the format cannot hold is multiplied into the
        experts.
        """
        cut = self._options.method.cut(site)
        return cut._replace(experts=tuple(part.times(self._gain) for part in cut.experts))
