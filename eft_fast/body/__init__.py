"""The body: model files, joints, and the module that poses it."""

from eft_fast.body.load import load_body
from eft_fast.body.smpl import Smpl, SmplOutput

__all__ = ["Smpl", "SmplOutput", "load_body"]
