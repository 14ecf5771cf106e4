"""What a run recorded, read back: curves, events, the plan with its prediction, the lineage."""
