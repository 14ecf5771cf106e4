"""Each script prints one table; ``--json FILE`` keeps it, ``--check`` fails on a missed bar."""

import moe  # noqa: F401, before numpy, which reads its settings once
