"""The workflows a person runs. The only place that joins actors with the cluster."""

import moe  # noqa: F401, before numpy, which reads its settings once
