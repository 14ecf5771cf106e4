"""What a rank records of its experts every so many steps: how alike their weights are."""

from collections.abc import Mapping
from dataclasses import replace

from actors.commands import LayerReport
from moe.nn.decoder import Decoder
from moe.nn.sketch import Alike, alike


class RankMonitor:
    """Looks at the experts of one share together with the gang; ``every`` 0 never looks."""

    def __init__(self, decoder: Decoder, every: int) -> None:
        self._decoder = decoder
        self._every = every

    def due(self, step: int) -> bool:
        """Tell whether more is recorded of a step than of others.

        ``step`` counts from 0: the first is due, so a run records where it began.
        """
        return self._every > 0 and step % self._every == 0

    def look(self, step: int) -> dict[int, Alike]:
        """Compare the experts of each layer in a step that is due, with the whole gang."""
        if not self.due(step):
            return {}
        config, share = self._decoder.config, self._decoder.share
        layers = [layer for layer in share.layer_numbers if config.has_experts(layer)]
        found = {layer: alike(self._decoder.mixture(layer)) for layer in layers}
        return {layer: seen for layer, seen in found.items() if seen is not None}


def with_similarity(
    reports: Mapping[int, LayerReport], seen: Mapping[int, Alike]
) -> dict[int, LayerReport]:
    """Return the reports of layers with what was seen of their experts."""
    return {
        layer: report
        if layer not in seen
        else replace(report, similarity=seen[layer].mean, closest=seen[layer][1:])
        for layer, report in reports.items()
    }
