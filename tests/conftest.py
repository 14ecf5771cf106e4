"""Settings of numpy, Hypothesis and deepspeed, before any test is imported."""

import os

import moe  # noqa: F401, before numpy
from tests.examples import load_profile

os.environ.setdefault("DS_ACCELERATOR", "cpu")
"""transformers saves models through accelerate, which peft brings and which imports deepspeed if it
is there; without this, deepspeed would print what it guesses, into what tests read.
"""

load_profile()
