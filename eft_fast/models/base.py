"""What every regressor promises, whatever its network."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from eft_fast import conventions
from eft_fast.models.identity import weights_hash, weights_stamp

_LOG = logging.getLogger(__name__)


class RegressorOutput(NamedTuple):
    """Body parameters and camera of each person.

    Attributes:
        pred_rotmat: Rotation of each kinematic joint relative to its parent; joint 0 is
            ``global_orient``, body to camera.
        pred_betas: Shape coefficients of the body that the regressor was trained with.
        pred_cam: ``s, tx, ty`` of the weak perspective camera in the crop,
            x = s * X + t with x in [-1, 1] (``scale_shift``).
    """

    pred_rotmat: Float[Tensor, "B 24 3 3"]
    pred_betas: Float[Tensor, "B 10"]
    pred_cam: Float[Tensor, "B 3"]


class Regressor(nn.Module, ABC):
    """A network from a normalised crop to body parameters and a camera.

    Attributes:
        input_size: Side of the square crop, in pixels.
        id: Names the kind of network, for example ``"open-1"``; ``full_id`` names its weights too.
        body_id: ``Smpl.id`` of the body that the shape coefficients belong to; ``"smpl"`` stands
            for every licensed SMPL file.
    """

    input_size: int
    id: str
    body_id: str
    #: Channel mean and standard deviation, RGB in [0, 1], with which ``imaging.to_input``
    #: normalises the crops that ``forward`` expects. A network that says nothing takes ImageNet's.
    img_mean: tuple[float, float, float] = conventions.IMG_MEAN
    img_std: tuple[float, float, float] = conventions.IMG_STD
    #: Where the network can be cut, from front to back. ``layer3``, ``layer4``: before the last but
    #: one and the last stage of the trunk; ``feature``: at the vector [B, D] that everything behind
    #: the trunk reads; ``head``: between ``features`` and ``head_forward``, which everyone has.
    stages: tuple[str, ...] = ("head",)
    #: Whether ``joint_confidence`` says anything; who does not is not asked.
    has_confidence: bool = False
    #: Joint set of the keypoints that the network can read beside the picture: ``head_forward`` and
    #: ``head_with_confidence`` then take ``given``, x and y in [-1, 1] of the crop and confidence.
    #: None: it reads none.
    reads_keypoints: str | None = None
    #: The last ``weights_hash``, and the stamp of the weights that it is of.
    _hashed: tuple[tuple[tuple[int, int], ...], str] | None = None

    @property
    def weights_hash(self) -> str:
        """Hash of the weights as they are now, 16 hex digits; see ``models.identity``.

        It is computed once (20 ms for the open regressor) and again only after weights were
        written, moved or copied. Writing through ``Tensor.data`` goes unnoticed.
        """
        stamp = weights_stamp(self)
        if stamp is None:
            return weights_hash(self)
        if self._hashed is None or self._hashed[0] != stamp:
            self._hashed = (stamp, weights_hash(self))
        return self._hashed[1]

    @property
    def full_id(self) -> str:
        """``id`` and ``weights_hash``, for example ``"open-1:2d9ea62d0ab9f4fd"``."""
        return f"{self.id}:{self.weights_hash}"

    @property
    def box_margin(self) -> float:
        """Side of a crop over the longer side of the person's box."""
        return conventions.box_margin_of(self.id)

    @property
    def camera_convention(self) -> str:
        """Meaning of ``pred_cam`` as it leaves the regressor; the same for all of them."""
        return conventions.SCALE_SHIFT

    @abstractmethod
    def forward(
        self, img: Float[Tensor, "B 3 H W"], *, raw_camera: bool = False
    ) -> RegressorOutput:
        """Regress each person of the batch on their own.

        Args:
            img: RGB crops of ``input_size`` pixels, normalised with ``img_mean`` and ``img_std``:
                what ``imaging.to_input`` makes of uint8 crops.
            raw_camera: Leave ``pred_cam`` as the weights mean it, without conversion to
                ``scale_shift``. Only the strict reproduction of the reference loop wants this.
        """

    @abstractmethod
    def features(self, img: Float[Tensor, "B 3 H W"]) -> Any:
        """Run the trunk; keep the result for ``head_forward`` when only the head moves."""

    @abstractmethod
    def head_forward(self, features: Any, *, raw_camera: bool = False) -> RegressorOutput:
        """Finish ``forward`` from the result of ``features``."""

    @abstractmethod
    def trunk_parameters(self) -> Iterator[nn.Parameter]:
        """Weights behind ``features`` that move the output."""

    @abstractmethod
    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Weights behind ``head_forward``."""

    def joint_confidence(self, features: Any) -> Float[Tensor, "B 24"] | None:
        """Say how sure the answer from the result of ``features`` is.

        Returns:
            For each kinematic joint the probability that it lies within
            ``conventions.CONFIDENT_WITHIN_M`` of its true place, both about the pelvis; None if
            the network does not say. It is about the answer of these weights: fitting to
            keypoints makes the answer better and leaves the number.
        """
        return None

    def head_with_confidence(
        self, features: Any, *, raw_camera: bool = False
    ) -> tuple[RegressorOutput, Float[Tensor, "B 24"] | None]:
        """``head_forward`` and, without gradient, ``joint_confidence``.

        A network in which the two share work overrides it; the numbers are the same.
        """
        raw = {"raw_camera": True} if raw_camera else {}
        answer = self.head_forward(features, **raw)
        with torch.no_grad():
            return answer, self.joint_confidence(features)

    def run_to(self, stage: str, img: Float[Tensor, "B 3 H W"]) -> Any:
        """Run the network up to a stage; ``run_from`` goes on from the result.

        Args:
            stage: One of ``stages``.
            img: As for ``forward``.

        Raises:
            ValueError: If the network cannot be cut there.
        """
        self.check_stage(stage)
        return self.features(img)

    def run_from(self, stage: str, state: Any, *, raw_camera: bool = False) -> RegressorOutput:
        """Finish ``forward`` from the result of ``run_to`` at the same stage."""
        self.check_stage(stage)
        return self.head_forward(state, raw_camera=raw_camera)

    def features_from(self, stage: str, state: Any) -> Any:
        """Go on from the result of ``run_to`` as far as ``features``."""
        self.check_stage(stage)
        if stage != "head":
            raise NotImplementedError(
                f"{type(self).__name__}: features_from must know stage {stage}; override it"
            )
        return state

    def parameters_from(self, stage: str) -> Iterator[nn.Parameter]:
        """Weights behind ``run_from`` that move the output."""
        self.check_stage(stage)
        return self.head_parameters()

    def check_stage(self, stage: str) -> None:
        """Raise ValueError unless the network can be cut at ``stage``."""
        if stage not in self.stages:
            raise ValueError(
                f"{type(self).__name__}: stage must be one of {', '.join(self.stages)}, "
                f"got {stage!r}"
            )

    def check_img(self, img: Tensor) -> None:
        """Raise ValueError unless ``img`` is a batch of crops of the right size."""
        size = self.input_size
        if img.dim() != 4 or tuple(img.shape[1:]) != (3, size, size):
            raise ValueError(
                f"{type(self).__name__}: img must be [B, 3, {size}, {size}], "
                f"got {list(img.shape)}; cut crops of input_size pixels with imaging.crop_image"
            )


def check_same_body(regressor: Regressor, body_id: str, who: str) -> None:
    """Raise ValueError, in the name of ``who``, unless the regressor predicts this body.

    A gendered SMPL is another body with the same joints: it is taken, and the log says so.

    Args:
        regressor: The network.
        body_id: ``Smpl.id``; what stands behind a colon names a variant of the same body.
        who: Opens the sentence of the error.
    """
    trained_on, kind = regressor.body_id, body_id.split(":")[0]
    if trained_on == "smpl" and kind in ("smpl-male", "smpl-female"):
        _LOG.warning(
            "%s: regressor %s predicts shapes of the neutral body, as SPIN and EFT do, got %s; the "
            "same numbers are another shape there",
            who,
            regressor.id,
            body_id,
        )
    if trained_on in (kind, body_id) or (trained_on == "smpl" and kind.startswith("smpl")):
        return
    raise ValueError(
        f"{who}: regressor {regressor.id} predicts body {trained_on}, got body {body_id}; "
        "their betas and joints differ, so load a pair that belongs together"
    )
