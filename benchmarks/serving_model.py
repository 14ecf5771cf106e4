"""The model that servers are measured with: the demo's dense model with four noisy experts a layer.

374 M parameters, of which a token takes 214 M, in the form of Mixtral, which all engines read.
"""

from pathlib import Path

from moe.surgery.copies import Noise
from moe.surgery.options import UpcycleOptions
from moe.surgery.upcycle import upcycle

NAME = "mixtral"


def serving_model(dense: Path) -> Path:
    """Return the model beside the dense one, made if it is not there."""
    model = dense.absolute().with_name(NAME)
    if not model.exists():
        upcycle(dense, model, UpcycleOptions(4, 2, family="mixtral", method=Noise()))
    return model
