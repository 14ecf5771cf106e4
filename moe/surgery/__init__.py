"""Conversions of weights: dense to mixture-of-experts, formats, random initialisation."""
