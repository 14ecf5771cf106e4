"""Output for people: tables, progress bars and the page of a plan."""
