"""Exemplar Fine-Tuning of human bodies, batched, open and fast."""
