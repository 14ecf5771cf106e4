"""What layers cost a gang of devices as one stage, and how a gang cuts their width."""
