"""The page of ``raymoe report``: its sections, each from what a run recorded."""
