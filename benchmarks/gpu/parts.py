"""The parts of the check, in the order of their worth: what comes late may not be reached."""

from benchmarks.gpu import (
    blocks,
    ceilings,
    decode,
    machine,
    parity,
    probes,
    ranks,
    step,
    waits,
)
from benchmarks.gpu.process import Part

PARTS = (
    Part("ceilings", 25.0, ceilings.part),
    Part("probes", 20.0, probes.part),
    Part("parity", 50.0, parity.part),
    Part("waits", 20.0, waits.part),
    Part("blocks", 75.0, blocks.part),
    Part("ranks", 90.0, ranks.part),
    Part("step", 80.0, step.part),
    Part("decode", 45.0, decode.part),
    Part("machine", 50.0, machine.part),
)
