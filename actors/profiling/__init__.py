"""What a machine can do, measured by as many processes as it is to hold."""
