"""What a run does about ranks that are lost, and about nodes that go and come."""

from moe.config.section import Section


class ElasticSection(Section):
    """Copies on other ranks, healing in place, and the size of a run whose nodes change."""

    faults: bool = False
    """Whether ``raymoe train --fault`` may kill, hang or drain ranks of this run, as tests do."""
