"""The domain: configuration, model maths, checkpoints, surgery, planning. Knows no cluster."""

__version__ = "0.1.0"
