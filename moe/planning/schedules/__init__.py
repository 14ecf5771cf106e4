"""Pipeline schedules and their simulation."""
