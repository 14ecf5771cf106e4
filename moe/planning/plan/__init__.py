"""Who holds what: the plan, its file, its checks, its seats."""
