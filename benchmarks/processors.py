"""Which processor a benchmark runs on; bars differ by its kind."""

from moe.nn.processor import processor
from moe.planning.devices.processor import model_name


def described() -> str:
    """Return the kind and the model of the processor, such as ``avx512, AMD EPYC``."""
    return f"{processor()}, {model_name()}"
