"""What a plan costs on an inventory: seconds and bytes of every rank."""
