"""Load on any server of the OpenAI API, and what was measured of it. Neither Ray nor torch."""
