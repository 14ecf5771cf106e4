"""The load of experts over the last steps of a living run, and the plan that it asks for."""

from collections import Counter

from actors.commands import StepReport
from moe.config.run.elastic import ElasticSection
from moe.planning.experts.load import checked_load
from moe.planning.plan.plan import Plan
from pipelines.planning.stage_experts import improved, speeds_of, with_experts


class ExpertLoads:
    """Counts tokens by layer and expert, over as many steps as the run file says."""

    def __init__(self, elastic: ElasticSection) -> None:
        self._elastic = elastic
        self._steps = 0
        self._tokens: dict[int, Counter[int]] = {}

    def note(self, report: StepReport) -> None:
        """Count a step."""
        if not self._elastic.rebalance_every:
            return
        self._steps += 1
        for number, layer in report.layers.items():
            self._tokens.setdefault(number, Counter()).update(dict(enumerate(layer.load)))

    def better(self, plan: Plan) -> Plan | None:
        """Return a plan whose experts are placed by the load; None where none is due, or better.

        Counting begins anew then. Experts stay in the gang of their layer.
        """
        due = self._elastic.rebalance_every
        if not due or self._steps < due:
            return None
        tokens, self._tokens, self._steps = self._tokens, {}, 0
        if not tokens:
            return None
        layers = sorted(tokens)
        load = checked_load([[tokens[each][n] for n in sorted(tokens[each])] for each in layers])
        gain, speeds = self._elastic.rebalance_gain, speeds_of(plan, None)
        found = with_experts(plan, improved(plan, layers, load, gain, speeds))
        return None if found == plan else found
