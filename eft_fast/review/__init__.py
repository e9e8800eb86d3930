"""A run corrected by hand: keypoints, new fits, verdicts; nothing of the run is overwritten."""

from eft_fast.review.server import ReviewServer
from eft_fast.review.session import REVIEW, ReviewSession

__all__ = ["REVIEW", "ReviewServer", "ReviewSession"]
