"""The actors of a plan: the nodes they go to, how they start, how they are found, how they end."""
