"""Work on whole models: evaluation, calibration, DeepSpeed shards."""
