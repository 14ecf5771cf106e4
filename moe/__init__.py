"""The domain: configuration, model maths, checkpoints, surgery, planning. Knows no cluster."""

import os

from moe.environment import settle

__version__ = "0.1.0"

settle(os.environ)
