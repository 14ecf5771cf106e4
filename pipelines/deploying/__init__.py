"""Runs and services on a cluster: Ray jobs and Kubernetes objects."""
