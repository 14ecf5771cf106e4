"""The cost of a plan on an inventory: seconds and bytes of every rank."""
