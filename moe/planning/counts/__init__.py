"""The work and the bytes of a rank, counted. Independent of devices."""
