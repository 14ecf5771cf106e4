"""Work on whole models: evaluation, inspection, texts, DeepSpeed shards."""
