"""Protocols: what exactly a published number means, in one object that prints itself.

A protocol pins the frames, the ground truth, the joints and the root, so that two numbers of one
protocol can be compared and numbers of two cannot be mixed up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from eft_fast.evaluation import metrics

#: Rows of the 17 joints of the H36M regressor with the left leg first, as the usual list of 17; its
#: first 14 are the usual 14.
H36M_TO_J17: Final = (6, 5, 4, 1, 2, 3, 16, 15, 14, 11, 12, 13, 8, 10, 0, 7, 9)
H36M_TO_J14: Final = H36M_TO_J17[:14]
#: The same lists out of the 24 annotated joints; joint 13 is the head of H36M, not the top of LSP.
J24_TO_J17: Final = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 18, 14, 16, 17)
J24_TO_J14: Final = J24_TO_J17[:14]

_MM: Final = 1000.0


@dataclass(frozen=True)
class Protocol:
    """What a number of this name was measured on, and how.

    Attributes:
        name: Name on the command line.
        frames: Which frames or photos count.
        ground_truth: Where the true values come from.
        gender: Of the body models on both sides.
        joint_source: The set that joints are picked from; predictions and truth alike.
        joints: Picked joints; empty: all.
        root: Joint of the source set that is the origin on both sides; None: not a 3D protocol.
        measures: Names of what is reported.
        trap: What makes numbers of this name differ between papers.
    """

    name: str
    frames: str
    ground_truth: str
    gender: str
    joint_source: str
    joints: tuple[int, ...] = ()
    root: int | None = None
    measures: tuple[str, ...] = ("mpjpe_mm", "pa_mpjpe_mm")
    trap: str = ""

    def card(self) -> str:
        """The protocol in words, one line per decision, to be printed above its numbers."""
        joints = f"{len(self.joints)}: {', '.join(map(str, self.joints))}" if self.joints else "all"
        rows = [
            ("protocol", self.name),
            ("frames", self.frames),
            ("ground truth", self.ground_truth),
            ("gender", self.gender),
            ("joints from", self.joint_source),
            ("joints", joints),
            ("root", "none" if self.root is None else f"joint {self.root} of {self.joint_source}"),
            ("measures", ", ".join(self.measures)),
            ("beware", self.trap),
        ]
        return "\n".join(f"{key:<13} {value}" for key, value in rows if value)

    def measure(
        self, pred: Float[np.ndarray, "N K 3"], gt: Float[np.ndarray, "N K 3"]
    ) -> dict[str, npt.NDArray[np.float64]]:
        """Measure people whose joints are in the order of ``joint_source``.

        Args:
            pred: Predicted joints, metres.
            gt: True joints, metres.

        Returns:
            One value per person of each measure of the protocol; names end with the unit.

        Raises:
            ValueError: If the protocol is one of photos, or the joints are too few.
        """
        if self.root is None:
            raise ValueError(
                f"Protocol.measure: {self.name} has no 3D joints; use measure_2d or measure_labels"
            )
        needed = max((*self.joints, self.root)) + 1
        if pred.shape != gt.shape or pred.ndim != 3 or pred.shape[1] < needed:
            raise ValueError(
                f"Protocol.measure: {self.name} needs joints [N, K, 3] of {self.joint_source} with "
                f"K at least {needed}, got {list(pred.shape)} and {list(gt.shape)}"
            )
        pred, gt = (part - part[:, self.root : self.root + 1] for part in (pred, gt))
        if self.joints:
            pred, gt = pred[:, self.joints], gt[:, self.joints]
        computed = {
            "mpjpe_mm": lambda: _MM * metrics.mpjpe(pred, gt),
            "pa_mpjpe_mm": lambda: _MM * metrics.pa_mpjpe(pred, gt),
            "pck150": lambda: metrics.pck3d(pred, gt),
            "auc": lambda: metrics.auc3d(pred, gt),
        }
        return {name: computed[name]().astype(np.float64) for name in self.measures}

    def measure_2d(
        self,
        pred: Float[np.ndarray, "N K 2"],
        gt: Float[np.ndarray, "N K 3"],
        boxes: Float[np.ndarray, "N 4"],
    ) -> dict[str, npt.NDArray[np.float64]]:
        """Measure projected keypoints on photos.

        Args:
            pred: Projected keypoints, photo pixels.
            gt: Annotated ones and confidence; 0 = not labelled.
            boxes: x, y, width, height of each person, photo pixels.

        Returns:
            One value per person of each measure; NaN for people without a labelled keypoint.

        Raises:
            ValueError: If the protocol is not one of 2D keypoints, or shapes do not agree.
        """
        if "kp_error_px" not in self.measures:
            raise ValueError(f"Protocol.measure_2d: {self.name} has no 2D keypoints")
        if pred.shape[:2] != gt.shape[:2] or boxes.shape != (len(pred), 4):
            raise ValueError(
                f"Protocol.measure_2d: expected pred [N, K, 2], gt [N, K, 3] and boxes [N, 4], got "
                f"{list(pred.shape)}, {list(gt.shape)} and {list(boxes.shape)}"
            )
        distance = metrics.keypoint_distances_px(pred, gt)
        size = np.sqrt(boxes[:, 2] * boxes[:, 3])[:, None]
        labelled = np.isfinite(distance)
        count = labelled.sum(1)
        within = {
            f"pck_{part:g}": np.where(
                count > 0,
                ((distance < part * size) & labelled).sum(1) / np.maximum(count, 1),
                np.nan,
            )
            for part in (0.05, 0.1)
        }
        return {**within, "kp_error_px": metrics.reprojection_error(pred, gt)}

    def measure_labels(
        self, pred: npt.NDArray[np.integer], gt: npt.NDArray[np.integer], *, classes: int
    ) -> dict[str, float]:
        """Measure label images of all photos together: accuracy and F1 over the classes.

        Raises:
            ValueError: If the protocol is not one of labels.
        """
        if "f1" not in self.measures:
            raise ValueError(f"Protocol.measure_labels: {self.name} has no label images")
        accuracy, f1 = metrics.part_scores(pred, gt, classes=classes)
        return {"accuracy": accuracy, "f1": f1}


PROTOCOLS: Final[dict[str, Protocol]] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "3dpw14",
            "3DPW test, frames whose camera pose is valid; state which list of frames",
            "SMPL mesh of the data set through J_regressor_h36m; prediction: its mesh, alike",
            "truth: the subject's; prediction: neutral",
            "h36m17_Jreg",
            H36M_TO_J14,
            root=0,
            trap="neutral ground truth, or the 24 SMPL joints, give other numbers",
        ),
        Protocol(
            "h36m_p1",
            "Human3.6M S9 and S11, every 5th frame, all four cameras",
            "monocular 3D positions of the data set",
            "truth: no body model; prediction: neutral mesh through J_regressor_h36m",
            "h36m17_Jreg",
            H36M_TO_J14,
            root=0,
        ),
        Protocol(
            "h36m_p2",
            "Human3.6M S9 and S11, every 5th frame, camera 60457274 only",
            "monocular 3D positions of the data set",
            "truth: no body model; prediction: neutral mesh through J_regressor_h36m",
            "h36m17_Jreg",
            H36M_TO_J14,
            root=0,
            measures=("pa_mpjpe_mm",),
            trap="only the aligned error is reported on this protocol",
        ),
        Protocol(
            "3dhp17",
            "MPI-INF-3DHP TS1 to TS6, valid frames with all 17 joints inside the image",
            "univ_annot3 of the data set",
            "truth: no body model; prediction: neutral",
            "mpiinf17test",
            tuple(range(17)),
            root=14,
            measures=("mpjpe_mm", "pck150", "auc", "pa_mpjpe_mm"),
            trap="the area includes the threshold 0, so it is at most 30/31",
        ),
        Protocol(
            "smpl24",
            "as the data set gives them",
            "the 24 joints of the data set's own SMPL bodies",
            "truth: the subject's; prediction: neutral",
            "smpl24",
            tuple(range(24)),
            root=0,
            trap="no published number: joints of SMPL, not those of a regressor on its mesh",
        ),
        Protocol(
            "limbs12",
            "as the data set gives them",
            "points in space of the data set: ankles, knees, hips, wrists, elbows, shoulders",
            "truth: no body model; prediction: neutral",
            "j24",
            tuple(range(12)),
            root=14,
            trap="no published number: hips and shoulders mean other points in each data set",
        ),
        Protocol(
            "coco_pck",
            "COCO people with at least six labelled keypoints",
            "annotated 2D keypoints",
            "truth: no body model; prediction: neutral",
            "coco17",
            measures=("pck_0.05", "pck_0.1", "kp_error_px"),
            trap="distances are divided by the root of the area of the person's own box",
        ),
        Protocol(
            "lsp_mask",
            "LSP test photos with part labels",
            "label images; 255 is not counted",
            "truth: no body model; prediction: neutral",
            "pixels",
            measures=("accuracy", "f1"),
            trap="masks (2 classes) and parts (7) both count the background as a class",
        ),
    )
}


def protocol(name: str) -> Protocol:
    """Find a protocol by name.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"protocol: expected one of {', '.join(PROTOCOLS)}, got {name!r}")
    return PROTOCOLS[name]
