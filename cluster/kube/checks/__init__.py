"""What a cluster must have before a run can be applied: each check with its remedy."""
