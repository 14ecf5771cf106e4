"""The experts of a layer, and the two banks that compute them: a loop, and grouped products."""
