"""The devices, and how fast they do counted work."""
