"""What a run records of its experts now and then, beside what every step records."""

from pydantic import Field

from moe.config.section import Section


class MonitorSection(Section):
    """Figures that cost more than a step gives away for nothing."""

    every: int = Field(default=0, ge=0)
    """Steps from one look at the weights of the experts to the next: how alike they are, and which
    pair of each layer most. The same steps are traced: one rank of each stage notes when it worked
    on what. 0: never.
    """
