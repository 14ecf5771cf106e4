"""What is asked of a rank, counted: work and bytes. Knows no device."""
