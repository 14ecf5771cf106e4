"""numpy's settings and the profile of Hypothesis, before any test is imported."""

import moe  # noqa: F401, before numpy
from tests.examples import load_profile

load_profile()
