"""The updates of experts orthogonal to what the other experts of their layer are given."""

from pydantic import Field

from moe.config.section import Section


class OrthogonalSection(Section):
    """Two phases in turn (OMoE, arXiv 2310.09762): in the first, AdamW updates the experts, and
    their projectors learn their inputs; in the second, updates are projected.
    """

    accumulate: int = Field(default=4, gt=0)
    """Steps of the first phase."""
    project: int = Field(default=4, gt=0)
    """Steps of the second phase."""
    constant: float = Field(default=1.0, gt=0)
    """What is added to the squared length of an input: the smaller, the more of its direction is
    taken out.
    """

    def projects(self, step: int) -> bool:
        """Return whether a step, counted from 0, is one of the second phase."""
        return step % (self.accumulate + self.project) >= self.accumulate
