"""When each stage works: schedules, their simulation, failures and recovery."""
