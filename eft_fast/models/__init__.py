"""Networks: the open regressor and its trunk, HMR for licensed checkpoints, and a detector."""

from __future__ import annotations
