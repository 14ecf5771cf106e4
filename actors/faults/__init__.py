"""Faults that a run is asked to suffer: who has them armed, where they happen, which are spent."""
