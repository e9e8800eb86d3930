"""Readers of datasets with labels by people: one module per layout."""
