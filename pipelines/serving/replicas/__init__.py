"""Several replicas under one address: who gets a request, how many there are, what clients see."""
