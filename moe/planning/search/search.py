"""The search for a plan: over shapes, and exactly inside each (``moe.planning.search.pipeline``).

Shapes are tried in the order of what they can reach at best (``moe.planning.search.prospects``),
until no other can be as good as the best. A first shape, whose gangs are all alike, sets a bar
before any other is tried. Equal plans of unlike shapes are told apart by their seconds, then by the
number of devices. The alternatives are the best of what was tried on the way and of the shapes that
looked best after that; that no other is nearer is not proved.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from math import inf
from typing import NamedTuple

from moe.errors import PlanError
from moe.planning.counts.workload import Workload
from moe.planning.plan.plan import Plan
from moe.planning.search.assemble import pipeline, to_plan
from moe.planning.search.objectives import objective
from moe.planning.search.pipeline import MOST_NODES, Answer, Pipeline
from moe.planning.search.prospects import Prospects
from moe.planning.search.question import Question, check_question
from moe.planning.search.refusals import why_no_plan
from moe.planning.search.reserve import reserving
from moe.planning.search.shapes import Shape
from moe.planning.stages.units import form_units

__all__ = ["Candidate", "Found", "Question", "search"]

_ALTERNATIVES = 3
_PATIENCE = 120
"""Shapes tried in vain after which a search stops proving that no other is better."""

_LOOKED_AT_FOR_BAR = 200
"""Shapes among which the first one with alike gangs is looked for."""
_LOOKED_AT = 16
"""Shapes tried for alternatives."""
_NODES_OF_OTHERS = 300
_FAR = 1.3
"""An alternative that is worse by more than this is shown only if it was found on the way."""

_SAME = 1 + 1e-12
_EQUALS = 32
"""Plans as good as the best that are looked at for the one that moves the least."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """The best plan of a shape: the value of the objective, seconds of a step, and its stages."""

    shape: Shape
    value: float
    seconds: float
    layers: tuple[int, ...]
    recomputed: tuple[int, ...]
    fullness: float


@dataclass(frozen=True, slots=True)
class Found:
    """The plan, its workload, and the best of the next best shapes.

    ``gap`` is how far from the optimum the plan may be, as a part of its seconds: 0 where proved.
    With very many nodes that matter, units are taken ``node_by_node`` and other orders not tried.
    """

    plan: Plan
    workload: Workload
    best: Candidate
    alternatives: tuple[Candidate, ...]
    gap: float = 0.0
    node_by_node: bool = False


def search(question: Question) -> Found:
    """Return the best plan for the objective, or say why there is none."""
    check_question(question)
    return _Run(question).found()


class _Answered(NamedTuple):
    """The best answer of a shape; what it is compared by comes first."""

    value: float
    seconds: float
    devices: int
    shape: Shape
    answer: Answer
    problem: Pipeline


class _Run:
    """One search and its best answers so far, best first."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._objective = objective(
            question.objective, question.config, question.inventory, question.workload
        )
        self._prospects = Prospects(question, self._objective)
        self._answers: list[_Answered] = []
        self._first: _Answered | None = None

    def found(self) -> Found:
        """Try shapes until no other can be the best, then a few for alternatives."""
        question = self._question
        promising = self._with_bar(self._prospects.promising())
        unproved, passed = self._try_all(promising)
        if not self._answers and self._first is not None:
            self._answers.append(self._first)
        if not self._answers:
            raise PlanError(why_no_plan(question))
        self._look_further(heapq.merge(passed, promising))
        best = self._answers[0]
        answer = self._objective.refine(best.problem, (best.value, best.answer))
        workload = question.cut(best.shape)
        plan = self._nearest(best.problem, answer, workload)
        return Found(
            plan=reserving(question.config, plan, workload),
            workload=workload,
            best=_candidate(best._replace(answer=answer)),
            alternatives=tuple(map(_candidate, self._others())),
            gap=max(answer.gap, unproved / abs(best.value)),
            node_by_node=best.problem.node_by_node,
        )

    def _try_all(
        self, promising: Iterator[tuple[float, Shape]]
    ) -> tuple[float, list[tuple[float, Shape]]]:
        """Try shapes until none can be better, or too many were not.

        Return by how much another may be better, and the shapes that are not, by their bounds.
        """
        passed: list[tuple[float, Shape]] = []
        in_vain = 0
        for least, shape in promising:
            most = self._most()
            if least > most or (self._answers and in_vain > _PATIENCE):
                return max(0.0, most - least), [*passed, (least, shape)]
            if not self._try(shape, most):
                passed.append((least, shape))
            in_vain = 0 if self._most() < most else in_vain + 1
        return 0.0, passed

    def _with_bar(self, promising: Iterator[tuple[float, Shape]]) -> Iterator[tuple[float, Shape]]:
        """Set the bar by the first shape whose gangs are all alike; return all shapes.

        Such a shape is searched in no time. One with unlike gangs may take very long without a bar,
        and looks better beforehand than it is.
        """
        first = []
        for least, shape in islice(promising, _LOOKED_AT_FOR_BAR):
            first.append((least, shape))
            if self._prospects.alike(shape.gang):
                self._first = self._solved(shape, inf, _NODES_OF_OTHERS)
                if self._first is not None:
                    break
        return chain(first, promising)

    def _nearest(self, problem: Pipeline, answer: Answer, workload: Workload) -> Plan:
        """Return the plan, or of equal ones the one that moves the least from the plan given."""
        config, inventory = self._question.config, self._question.inventory
        if self._question.near is None:
            return to_plan(config, inventory, answer)
        from moe.planning.moves.renaming import least_moving

        equals = islice(self._objective.equals(problem, answer), _EQUALS)
        plans = [to_plan(config, inventory, each) for each in equals]
        plans = plans or [to_plan(config, inventory, answer)]
        return least_moving(config, self._question.near, plans, inventory, workload)

    def _most(self) -> float:
        """Return the value that a shape must not be above to be the best."""
        found = [each.value for each in (*self._answers[:1], self._first) if each is not None]
        return _worse(min(found), _SAME) if found else inf

    def _look_further(self, promising: Iterator[tuple[float, Shape]]) -> None:
        """Try shapes for alternatives.

        Where the gangs of the best are all alike, only shapes of which that is true as well: others
        look better beforehand than they are.
        """
        alike = self._prospects.alike
        if alike(self._answers[0].shape.gang):
            promising = (each for each in promising if alike(each[1].gang))
        for _, shape in islice(promising, _LOOKED_AT):
            others = self._others()
            full = len(others) == _ALTERNATIVES
            near = others[-1].value if full else _worse(self._answers[0].value, _FAR)
            self._try(shape, near, _NODES_OF_OTHERS)

    def _others(self) -> list[_Answered]:
        """Return the best answers of other gang sizes, depths or numbers of replicas."""
        found: dict[tuple[int, ...], _Answered] = {}
        for each in self._answers:
            found.setdefault(each.shape[:3], each)
        return list(found.values())[1 : _ALTERNATIVES + 1]

    def _try(self, shape: Shape, below: float, nodes: int = MOST_NODES) -> bool:
        """Solve a shape; tell whether it has a plan below, with units enough for its stages."""
        found = self._solved(shape, below, nodes)
        if found is not None:
            self._answers.append(found)
            self._answers.sort(key=lambda each: each[:4])
        return found is not None

    def _solved(self, shape: Shape, below: float, nodes: int) -> _Answered | None:
        """Return the best plan of a shape; None if none is below, or units are too few."""
        question = self._question
        units = form_units(self._prospects.gangs(shape.gang), shape.replicas, shape.stages)
        if len(units) < shape.stages:
            return None
        floor = self._prospects.floor(shape.gang, shape.micro_batch)
        problem = pipeline(question, shape, units, floor)
        solved = self._objective.solve(problem, below, nodes)
        if solved is None:
            return None
        value, answer = solved
        return _Answered(value, answer.seconds, shape.devices, shape, answer, problem)


def _worse(value: float, times: float) -> float:
    """Return a value so many times as bad; what is to be large is negative."""
    return value * times if value > 0 else value / times


def _candidate(found: _Answered) -> Candidate:
    stages = found.answer.stages
    return Candidate(
        shape=found.shape,
        value=found.value,
        seconds=found.answer.seconds,
        layers=tuple(stage.layers[1] - stage.layers[0] for stage in stages),
        recomputed=tuple(len(stage.cost.recompute) for stage in stages),
        fullness=found.answer.fullness,
    )
