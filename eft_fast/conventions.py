"""Constants that several modules must agree on, each with its meaning and source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

#: Channel mean of the network input, RGB in [0, 1] (torchvision's ImageNet constants).
IMG_MEAN: Final = (0.485, 0.456, 0.406)
#: Channel standard deviation of the network input, RGB in [0, 1].
IMG_STD: Final = (0.229, 0.224, 0.225)

#: Side of the crop that HMR, SPIN and EFT networks take, in pixels.
HMR_CROP: Final = 224
#: Side of the crop that the open regressor's trunk takes, in pixels.
OPEN_CROP: Final = 256
#: Crop side over the longer side of the person's box, as in EFT's readers of COCO and LSP.
BOX_MARGIN: Final = 1.2
#: The same of networks that see people best in another crop, by ``Regressor.id``.
BOX_MARGINS: Final[Mapping[str, float]] = {"open-2": 1.1, "open-2-lite": 1.1}
#: ``bbox_scale`` counts in units of this many pixels: side = BOX_UNIT * bbox_scale.
BOX_UNIT: Final = 200.0
#: Nominal focal length in pixels of a 224 px crop. A convention of HMR, not a calibration.
FOCAL_LENGTH: Final = 5000.0

#: Depth at which pinholes hold points that come nearer or lie behind, metres.
MIN_DEPTH: Final = 1e-3

#: A person's extent over f, the RMS distance of the limb joints from their mean: sqrt(12), the
#: length of a segment over the RMS distance of its points. Keypoint sigmas count in extents.
EXTENT_PER_SIZE: Final = 3.46

#: Weights called ``mine.npz`` have their error covariance beside them under this ending.
COVARIANCE_SUFFIX: Final = ".error_covariance.npz"

NUM_JOINTS: Final = 24
NUM_BETAS: Final = 10
#: ``Regressor.joint_confidence`` is the probability of an error below this, metres.
CONFIDENT_WITHIN_M: Final = 0.1
#: Pose features: nine entries of R - I for each of the 23 joints below the root.
NUM_POSE_FEATURES: Final = 207
#: Parent of each kinematic joint; -1 at the root.
PARENTS: Final = (
    -1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21,
)  # fmt: skip

#: Camera conventions of ``pred_cam`` = (s, tx, ty). Ours is the first.
SCALE_SHIFT: Final = "scale_shift"  # u = s * X + t
SHIFT_SCALE: Final = "shift_scale"  # u = s * (X + t)


def box_margin_of(regressor_id: str) -> float:
    """Crop side over the longer side of the box, by ``Regressor.id`` or ``full_id``."""
    return BOX_MARGINS.get(regressor_id.split(":", 1)[0], BOX_MARGIN)
