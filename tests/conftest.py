"""The profile of Hypothesis, before any test is imported."""

from tests.examples import load_profile

load_profile()
