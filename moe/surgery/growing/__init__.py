"""A mixture of experts with more experts (Dwivedi et al. 2026, "Expert Upcycling")."""
