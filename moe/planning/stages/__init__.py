"""The cost of layers on a gang as one stage, and how a gang cuts their width."""
