"""Work on whole models: evaluation, inspection, calibration, DeepSpeed shards."""
