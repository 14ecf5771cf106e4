"""The workflows a person runs. The only place that joins actors with the cluster."""
