"""The best plan for a question, exactly."""
