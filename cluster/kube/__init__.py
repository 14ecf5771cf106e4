"""A Kubernetes cluster as raymoe operates it: what is wished, what is there, what differs."""
