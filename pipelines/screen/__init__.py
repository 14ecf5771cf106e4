"""What a person sees: tables, progress bars and the page of a plan."""
