"""Ray actors that host pipeline stages and expert groups, and the engine that drives them."""

import moe  # noqa: F401, before numpy, which reads its settings once
