"""Machines: Ray sessions, inventory, Kubernetes objects, jobs, metrics."""
