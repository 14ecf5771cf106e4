"""A run on a cluster of several Ray nodes that is hurt all the time, beside one that is not."""
