"""What Prometheus and Grafana need to watch runs and servers, made from the table of metrics."""
