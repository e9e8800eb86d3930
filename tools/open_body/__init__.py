"""Generator of the open body, step by step; ``tools/build_open_body.py`` runs it."""
