"""The commands of the planner: plan, advise, rebalance, simulate."""
