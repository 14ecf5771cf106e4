"""What a run does about ranks that are lost, and about nodes that go and come."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from moe.config.section import Section

CopyEvery = int | Literal["auto"]
Shrink = Literal["replicas", "stages", "wait"]
"""What a run gives up first where nodes go: replicas, stages, or the time until nodes return."""


class ElasticSection(Section):
    """Copies on other ranks, healing in place, and the size of a run whose nodes change."""

    copy_every: CopyEvery = "auto"
    """Steps from one copy of every rank, in the memory of another rank, to the next. ``auto``: from
    the measured seconds of a copy and of a step (``moe.planning.policy.interval``). 0: no copies; a
    lost rank takes the run back to its last checkpoint.
    """
    max_failures: int = Field(default=10, ge=0)
    """Number of losses within ``failure_seconds`` that the run mends by itself; one more stops it.
    Ranks that are lost in one moment are one loss. 0: the first loss stops the run. Restarts of the
    driver, which holds no tensors, count for ``cluster.max_failures`` and not here.
    """
    failure_seconds: float = Field(default=3600.0, gt=0)
    """Seconds after which a loss no longer counts for ``max_failures``."""
    spares: int = Field(default=1, ge=0)
    """Processes on each node that wait with all imports done, so that a replacement starts soon.
    None where the run keeps no copies: a loss then starts all ranks anew.
    """
    hang_seconds: float = Field(default=30.0, gt=0)
    """A rank whose process does not answer for so long, even to a question about its status, is
    ended and replaced. A step may take longer: ``cluster.step_seconds`` limits that.
    """
    orphan_seconds: float = Field(default=600.0, ge=0)
    """A rank that no driver has told anything for so long ends itself and gives back what it
    reserves, as after the command line was killed. Until then ``raymoe train --resume`` takes the
    ranks over where they stand. 0: it waits for ever, or for ``raymoe stop``.
    """
    faults: bool = False
    """Whether ``raymoe train --fault`` may kill, hang or drain ranks of this run, as tests do."""
    on_shrink: Shrink = "replicas"
    """What to do where nodes go and the plan has no room. ``replicas``: train fewer replicas, and
    cut the model over fewer stages where not one whole replica is left. ``stages``: keep the
    replicas on fewer stages, and fewer replicas where that does not fit. ``wait``: for nodes.
    """
    resize_seconds: float = Field(default=300.0, gt=0)
    """A change of plan that takes longer, the start of new processes not counted, is given up; the
    old plan goes on.
    """
    rebalance_every: int = Field(default=0, ge=0)
    """Steps whose load of experts is summed; then experts go to other ranks of their gang where
    that makes its slowest rank faster. 0: never.
    """
    rebalance_gain: float = Field(default=0.1, gt=0)
    """Experts of a layer move only where the slowest rank becomes faster by this part."""
    follow_nodes: bool = False
    """Whether the run grows by itself when nodes come, up to the plan that it began with."""

    @property
    def copies(self) -> bool:
        """Whether ranks keep copies of each other at all."""
        return self.copy_every != 0

    @field_validator("copy_every", mode="before")
    @classmethod
    def _steps_or_auto(cls, every: Any) -> Any:
        if every == "auto" or (type(every) is int and every >= 0):
            return every
        raise ValueError(
            'give a whole number of steps from 0 on, or "auto"; 0 is a run without copies'
        )

    @model_validator(mode="after")
    def _patience_of_ranks(self) -> "ElasticSection":
        if 0 < self.orphan_seconds <= self.hang_seconds:
            raise ValueError(
                f"orphan_seconds {self.orphan_seconds:g} must exceed hang_seconds "
                f"{self.hang_seconds:g}: a driver may wait that long for one rank before it speaks "
                "to the others; raise orphan_seconds, or give 0 for ranks that wait for ever"
            )
        return self

    @model_validator(mode="after")
    def _spares_of_copies(self) -> "ElasticSection":
        spares = ElasticSection.model_fields["spares"].default
        if not self.copies and self.spares not in (0, spares):
            raise ValueError(
                "spares has no effect with copy_every = 0, where no lost rank is replaced alone; "
                "remove spares, or set copy_every"
            )
        return self

    @model_validator(mode="after")
    def _gain_of_a_rebalance(self) -> "ElasticSection":
        gain = ElasticSection.model_fields["rebalance_gain"].default
        if self.rebalance_every == 0 and self.rebalance_gain != gain:
            raise ValueError(
                "rebalance_gain has no effect with rebalance_every = 0, which moves no experts; "
                "remove rebalance_gain, or set rebalance_every"
            )
        return self

    @model_validator(mode="after")
    def _seconds_of_a_budget(self) -> "ElasticSection":
        seconds = ElasticSection.model_fields["failure_seconds"].default
        if self.max_failures == 0 and self.failure_seconds != seconds:
            raise ValueError(
                "failure_seconds has no effect with max_failures = 0, which stops the run at its "
                "first loss; remove failure_seconds, or raise max_failures"
            )
        return self
