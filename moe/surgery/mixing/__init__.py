"""Several dense models as the experts of one (Sukhbaatar et al. 2024, "Branch-Train-MiX")."""
