"""What drives the ranks of a plan: commands to all of them, and their answers made one."""
