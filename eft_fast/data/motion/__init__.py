"""Motion capture files in, SMPL poses over time out."""
