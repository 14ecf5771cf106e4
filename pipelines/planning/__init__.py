"""The verbs of the planner: plan, advise, place, simulate."""
