"""What a run does about losses, nodes that go and wishes: decided from values, without torch."""
