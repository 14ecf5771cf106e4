"""Studies: small runs of this project that try what the two papers claim.

A study is a set of *arms*, each one training run of a small model in this process, and a function
from what they recorded to a table of claims: what the paper says, what we measured, and whether it
holds. All studies use the code that trains any run: one rank that holds everything.
"""
