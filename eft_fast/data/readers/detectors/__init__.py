"""Readers of what detectors write: one module per program."""
