"""Ray actors that host pipeline stages and expert groups, and the engine that drives them."""
