"""Matrices in 8 and 4 bits: from numbers to what files hold, and back."""
