"""How many examples a property test draws: the profile of Hypothesis decides.

``ci``, the default, draws a third of what each test names, the same examples every time: a failure
in ``make test`` belongs to the change at hand, and comes back when the test runs again.
``HYPOTHESIS_PROFILE=thorough`` draws all of them, new ones every time; so does ``make soak``.
"""

import os

from hypothesis import HealthCheck, settings

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci")

FEWEST = 4
"""Where a test names more, it draws at least so many."""

UNNAMED = 100
"""What a test draws in ``thorough`` that names nothing."""


def load_profile() -> None:
    """Make the profile of the environment that of every test; an unknown name is an error."""
    options = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
    settings.register_profile("ci", max_examples=examples(UNNAMED), derandomize=True, **options)
    settings.register_profile("thorough", max_examples=UNNAMED, print_blob=True, **options)
    settings.load_profile(PROFILE)


def examples(thorough: int) -> int:
    """Return how many examples to draw where a thorough run draws so many."""
    if PROFILE == "thorough":
        return thorough
    return min(thorough, max(FEWEST, thorough // 3))
