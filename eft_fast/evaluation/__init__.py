"""Measures of how well fits agree with annotations."""
