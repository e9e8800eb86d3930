"""What a fit returns: parameters, cameras, errors and stop reasons, one row per person."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from eft_fast.body.measures import joint_angles_deg, measure_bodies, rest_heights
from eft_fast.conventions import BOX_UNIT, NUM_BETAS, NUM_JOINTS, box_margin_of
from eft_fast.files import save_npz
from eft_fast.geometry.cameras import (
    crop_intrinsics,
    photo_intrinsics,
    project_intrinsics,
    weak_project,
    weak_to_pinhole,
)
from eft_fast.geometry.rotations import matrix_to_axis_angle
from eft_fast.keypoints import joint_set as find_joint_set
from eft_fast.plausible import check_error, find_body_fault, find_swapped_sides

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

    from eft_fast.body.smpl import Smpl
    from eft_fast.models.base import RegressorOutput
    from eft_fast.pipeline.fitter import PersonFit
    from eft_fast.pipeline.prepare import Prepared

#: Every reason for which the fit of a person can end.
STOP_REASONS: Final = (
    "converged",
    "max_steps",
    "nan",
    "no_keypoints",
    "bad_image",
    "interrupted",
)
_FORMAT: Final = "eft-fast-fits/1"
#: How a field states its numbers and their axes.
_STATED: Final = re.compile(r"(Float|Int)\[Tensor, ['\"]([^'\"]*)['\"]\]")
_NAN: Final = float("nan")
#: What a stop reason says, where nothing more is known about the person.
_EXPLANATIONS: Final = {
    "no_keypoints": "fit_batch: no keypoint is labelled; the regressor's answer was kept",
    "nothing_counts": "fit_batch: no labelled keypoint counts in this fit (as released, hips and "
    "ankles do not); the regressor's answer was kept",
    "nan": "fit_batch: the numbers stopped being finite; the last finite answer was kept",
    "interrupted": "fit_batch: the run was interrupted before this person was done",
}

Rows = slice | Sequence[int] | Sequence[bool] | np.ndarray | Tensor


@dataclass(frozen=True)
class SmplParams:
    """Body parameters of N people, rotations as matrices in the camera frame of the crop."""

    betas: Float[Tensor, "N 10"]
    global_orient: Float[Tensor, "N 1 3 3"]
    body_pose: Float[Tensor, "N 23 3 3"]

    @classmethod
    def from_rotmat(
        cls, rotmat: Float[Tensor, "N 24 3 3"], betas: Float[Tensor, "N 10"]
    ) -> SmplParams:
        """Split the 24 rotations of a regressor into root and body."""
        return cls(betas=betas, global_orient=rotmat[:, :1], body_pose=rotmat[:, 1:])

    @property
    def full_pose(self) -> Float[Tensor, "N 24 3 3"]:
        """Root and body rotations together."""
        return torch.cat([self.global_orient, self.body_pose], dim=1)

    @property
    def axis_angle(self) -> Float[Tensor, "N 24 3"]:
        """Root and body rotations as rotation vectors, radians."""
        return matrix_to_axis_angle(self.full_pose)

    def select(self, rows: Tensor) -> SmplParams:
        """The people of ``rows``."""
        return SmplParams(self.betas[rows], self.global_orient[rows], self.body_pose[rows])

    @classmethod
    def concatenate(cls, parts: Sequence[SmplParams]) -> SmplParams:
        """The people of several, in their order."""
        names = [item.name for item in fields(cls)]
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True)
class Prediction:
    """Parameters and weak-perspective camera ``(s, tx, ty)``, u = s*X + t, of N people."""

    params: SmplParams
    pred_cam: Float[Tensor, "N 3"]

    @property
    def betas(self) -> Float[Tensor, "N 10"]:
        """Shape coefficients."""
        return self.params.betas

    @property
    def global_orient(self) -> Float[Tensor, "N 1 3 3"]:
        """Root rotations."""
        return self.params.global_orient

    @property
    def body_pose(self) -> Float[Tensor, "N 23 3 3"]:
        """Rotations of the other 23 joints, relative to their parents."""
        return self.params.body_pose

    def select(self, rows: Tensor) -> Prediction:
        """The people of ``rows``."""
        return Prediction(self.params.select(rows), self.pred_cam[rows])

    @classmethod
    def concatenate(cls, parts: Sequence[Prediction]) -> Prediction:
        """The people of several, in their order."""
        params = SmplParams.concatenate([part.params for part in parts])
        return cls(params, torch.cat([part.pred_cam for part in parts]))


@dataclass(frozen=True)
class FitResult:
    """Fits of N people, in the order in which they were given. All tensors live on the CPU.

    Attributes:
        params: Body parameters at the end of the fit.
        pred_cam: Camera of the crop at the end of the fit, u = s*X + t.
        init: Parameters and camera of the regressor alone.
        bbox_center: Centre of the crop, photo pixels.
        bbox_scale: Side of the crop / 200, photo pixels.
        loss: Total loss of the returned prediction.
        init_loss: Total loss of the regressor alone.
        kp_error_px: Mean distance over the labelled keypoints, photo pixels; NaN without any.
        init_kp_error_px: The same of the regressor alone.
        steps: Weight updates behind the returned prediction.
        stop_reason: One of ``STOP_REASONS`` per person.
        message: One sentence per person about what was wrong; empty if nothing was.
        keypoints: The keypoints that were given: x, y in photo pixels and confidence.
        joint_set: Name of their joint set.
        body_id: Id of the body model that the parameters belong to.
        regressor_id: Id of the regressor that started the fits.
        method: ``eft``, ``map``, ``none``, or the recipe of SMPLify.
        mode: Which weights were tuned: ``full``, ``head``, ...; the prior, if SMPLify was run.
        intrinsics: Pinhole of each photo, pixels, given or assumed by the fit; NaN where the fit
            used the weak camera.
        precision: Arithmetic of the network in the fit, see ``EftConfig.arithmetic``.
        joint_confidence: For each kinematic joint the probability, said by the regressor, that
            it lies within 100 mm of its true place in ``init``, both about the pelvis. The fit
            makes the answer better and leaves the number. NaN for whom there is no crop; None
            where the regressor says nothing.
        joint_sigma_mm: For each kinematic joint, about the pelvis, the radius in mm that holds the
            true one with 68 %, said by the fit of method ``map``. NaN for whom there is no fit;
            None where the method says nothing.
        keypoint_weight: What robust weights left of each given keypoint: 1, all; near 0 for those
            that lie far from any body that meets the others. Said by ``map``; EFT with the tie
            takes the weights of ``map``. NaN for keypoints that are not given, and for whom there
            is no fit; None where the method says nothing.
        hypothesis: What was taken in the place of what was given, words joined by ``+``:
            ``turned``, the regressor's answer turned round by 180 degrees; ``flipped``, bones
            mirrored in depth; ``arms``, left and right of the arms exchanged. Empty: nothing.
        photo: Path of each photo; empty for an array.
        id: Name of each person in the annotation file, or a number.
        run_id: Names the run of ``eft-fast fit`` that made the fits, as the files beside them do;
            empty elsewhere.
    """

    params: SmplParams
    pred_cam: Float[Tensor, "N 3"]
    init: Prediction
    bbox_center: Float[Tensor, "N 2"]
    bbox_scale: Float[Tensor, " N"]
    loss: Float[Tensor, " N"]
    init_loss: Float[Tensor, " N"]
    kp_error_px: Float[Tensor, " N"]
    init_kp_error_px: Float[Tensor, " N"]
    steps: Int[Tensor, " N"]
    stop_reason: tuple[str, ...]
    message: tuple[str, ...]
    keypoints: Float[Tensor, "N K 3"]
    joint_set: str
    body_id: str
    regressor_id: str
    method: str
    mode: str
    intrinsics: Float[Tensor, "N 3 3"] | None = None
    precision: str = "fp32"
    joint_confidence: Float[Tensor, "N 24"] | None = None
    joint_sigma_mm: Float[Tensor, "N 24"] | None = None
    keypoint_weight: Float[Tensor, "N K"] | None = None
    hypothesis: tuple[str, ...] = ()
    photo: tuple[str, ...] = ()
    id: tuple[str, ...] = ()
    run_id: str = ""
    _body: Smpl | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Files and callers that know no pinholes have weak cameras, and may know no names."""
        if self.intrinsics is None:
            nothing = torch.full((len(self), 3, 3), _NAN)
            object.__setattr__(self, "intrinsics", nothing)
        for name in ("hypothesis", "photo", "id"):
            if not getattr(self, name):
                object.__setattr__(self, name, ("",) * len(self))

    @classmethod
    def from_people(
        cls,
        people: Sequence[Prepared],
        fits: Sequence[PersonFit | None],
        *,
        outputs: Mapping[str, tuple[int, ...]],
        joint_set: str,
        body: Smpl,
        regressor_id: str,
        method: str,
        mode: str,
        precision: str = "fp32",
    ) -> FitResult:
        """Put people and their fits into one result; people without a fit get NaN and a reason.

        Args:
            people: Everybody, in the order of the result.
            fits: The fit of each, or None.
            outputs: Optional fields that the fitter fills, and their shapes, see ``Fitter``.
            joint_set: Order of the given keypoints.
            body: Body model of the fits.
            regressor_id: As of the attribute.
            method: As of the attribute.
            mode: As of the attribute.
            precision: As of the attribute.
        """
        reasons = tuple(
            person.reason_without_fit if fit is None else fit.stop_reason
            for person, fit in zip(people, fits, strict=True)
        )
        final = _stack_answers([None if fit is None else fit.final for fit in fits])
        num_keypoints = len(find_joint_set(joint_set).names)
        result = cls(
            params=final.params,
            pred_cam=final.pred_cam,
            init=_stack_answers([None if fit is None else fit.init for fit in fits]),
            bbox_center=_stack_arrays([person.center for person in people], (2,)),
            bbox_scale=_stack_arrays([np.asarray(person.scale) for person in people], ()),
            loss=_stack_rows([None if fit is None else fit.loss for fit in fits], ()),
            init_loss=_stack_rows([None if fit is None else fit.init_loss for fit in fits], ()),
            kp_error_px=torch.full((len(people),), _NAN),
            init_kp_error_px=torch.full((len(people),), _NAN),
            steps=torch.tensor([0 if fit is None else fit.steps for fit in fits]).long(),
            stop_reason=reasons,
            message=tuple(map(_tell_reason, people, fits, reasons)),
            hypothesis=tuple("" if fit is None else fit.hypothesis for fit in fits),
            keypoints=_stack_arrays([person.keypoints_px for person in people], (num_keypoints, 3)),
            intrinsics=_stack_arrays(
                [_pinhole_of(person, fit) for person, fit in zip(people, fits, strict=True)], (3, 3)
            ),
            joint_set=joint_set,
            body_id=body.id,
            regressor_id=regressor_id,
            method=method,
            mode=mode,
            precision=precision,
            photo=tuple(person.photo for person in people),
            id=tuple(person.id for person in people),
            _body=body,
            **_stack_outputs(fits, outputs, num_keypoints),
        )
        if not len(people):
            return result
        result.kp_error_px.copy_(result.keypoint_distances("final").nanmean(dim=1))
        result.init_kp_error_px.copy_(result.keypoint_distances("init").nanmean(dim=1))
        return replace(result, message=tuple(map(_join, result.message, result._faults())))

    def _faults(self) -> list[str]:
        """What is wrong with each fit as it ended, in a sentence, or empty."""
        sides = self.box_side_px.tolist()
        starts = self.keypoints_2d_px(which="init").numpy()
        return [
            _join(
                _find_bad_end(error, side),
                find_swapped_sides(start, given, self.joint_set),
                find_body_fault(betas, float(cam[0]), height),
            )
            for error, side, start, given, betas, cam, height in zip(
                self.kp_error_px.tolist(),
                sides,
                starts,
                self.keypoints.numpy(),
                self.params.betas.numpy(),
                self.pred_cam.tolist(),
                rest_heights(self.body(), self.params.betas).tolist(),
                strict=True,
            )
        ]

    def __len__(self) -> int:
        return len(self.stop_reason)

    def __repr__(self) -> str:
        """Five lines: who, how fits ended, how far off and how sure they are, by which models."""
        from eft_fast.present.words import describe

        return describe(self)

    def _repr_html_(self) -> str:
        """What notebooks show: the five lines, and a table of the first people."""
        from eft_fast.present.words import to_html

        return to_html(self)

    def __add__(self, other: FitResult) -> FitResult:
        """The people of both, as ``concatenate`` puts them together."""
        if not isinstance(other, FitResult):
            return NotImplemented
        return FitResult.concatenate([self, other])

    def __getitem__(self, rows: Rows | int) -> FitResult:
        """The people of a slice, a mask or a list of indices, as a FitResult."""
        index = _row_index(rows, len(self))
        changed: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Tensor):
                changed[item.name] = value[index]
            elif isinstance(value, SmplParams | Prediction):
                changed[item.name] = value.select(index)
            elif isinstance(value, tuple):
                changed[item.name] = tuple(value[i] for i in index.tolist())
        return replace(self, **changed)

    @classmethod
    def concatenate(cls, parts: Sequence[FitResult]) -> FitResult:
        """The people of several results of one kind, in their order.

        Raises:
            ValueError: If there is no part, or they differ in method, models or joint set.
        """
        if not parts:
            raise ValueError("FitResult.concatenate: at least one part expected, got none")
        changed: dict[str, Any] = {}
        for item in fields(cls):
            values = [getattr(part, item.name) for part in parts]
            if item.name == "_body":
                changed[item.name] = next((each for each in values if each is not None), None)
            elif all(isinstance(each, Tensor) for each in values):
                changed[item.name] = torch.cat(values)
            elif isinstance(values[0], SmplParams | Prediction):
                changed[item.name] = type(values[0]).concatenate(values)
            elif isinstance(values[0], tuple):
                changed[item.name] = tuple(one for each in values for one in each)
            elif any(each is not None and each != values[0] for each in values) or None in values:
                if any(each is not None for each in values):
                    raise ValueError(
                        f"FitResult.concatenate: all parts must be of one {item.name}, got "
                        f"{sorted({str(each)[:40] for each in values})}"
                    )
        return replace(parts[0], **changed)

    @property
    def person_confidence(self) -> Float[Tensor, " N"] | None:
        """Mean of ``joint_confidence`` over the 23 joints below the pelvis, which is always sure.

        NaN for whom there is no crop; None where the regressor says nothing.
        """
        return None if self.joint_confidence is None else self.joint_confidence[:, 1:].mean(1)

    @property
    def box_side_px(self) -> Float[Tensor, " N"]:
        """Longer side of each person's box without the crop's margin, photo pixels."""
        side: Tensor = BOX_UNIT * self.bbox_scale / box_margin_of(self.regressor_id)
        return side

    def with_body(self, body: Smpl) -> FitResult:
        """The same result, tied to a loaded body; needed after ``load`` unless it is the open one.

        Raises:
            ValueError: If the body is not the one that was fitted.
        """
        if body.id != self.body_id:
            raise ValueError(
                f"FitResult.with_body: the fits belong to body {self.body_id}, got {body.id}; "
                "load the body that they were made with"
            )
        return replace(self, _body=body)

    def body(self) -> Smpl:
        """The body model of these fits.

        Raises:
            ValueError: If it is not the open one and was not given by ``with_body``.
        """
        if self._body is not None:
            return self._body
        from eft_fast.body import load_body

        if not self.body_id.startswith("open"):
            raise ValueError(
                f"FitResult: the fits belong to body {self.body_id}, which is not loaded; "
                "call with_body(load_body(PATH))"
            )
        return load_body("open")

    @torch.no_grad()
    def vertices(self, which: str = "final") -> Float[Tensor, "N V 3"]:
        """Mesh vertices in metres, camera axes, without the camera's translation.

        Args:
            which: ``final``, or ``init`` for the regressor alone.
        """
        params = self._prediction(which).params
        body = self.body()
        output = body(
            betas=params.betas.to(body.v_template),
            body_pose=params.body_pose.to(body.v_template),
            global_orient=params.global_orient.to(body.v_template),
            pose2rot=False,
        )
        vertices: Tensor = output.vertices.cpu()
        return vertices

    @torch.no_grad()
    def joints3d(
        self, joint_set: str | None = None, which: str = "final"
    ) -> Float[Tensor, "N K 3"]:
        """Keypoints of a joint set in metres, camera axes; default: the set that was given."""
        params = self._prediction(which).params
        body = self.body()
        return body.keypoints(
            params.betas.to(body.v_template),
            params.body_pose.to(body.v_template),
            params.global_orient.to(body.v_template),
            joint_set=joint_set or self.joint_set,
            pose2rot=False,
        ).cpu()

    def keypoints_2d_px(
        self, joint_set: str | None = None, which: str = "final"
    ) -> Float[Tensor, "N K 2"]:
        """Projected keypoints in photo pixels; default: the set that was given."""
        return self.to_photo(self.joints3d(joint_set, which), which)[..., :2]

    def keypoint_distances(self, which: str = "final") -> Float[Tensor, "N K"]:
        """Distance of each projected to each given keypoint, photo px; NaN where not labelled."""
        distance = (self.keypoints_2d_px(which=which) - self.keypoints[..., :2]).norm(dim=-1)
        masked: Tensor = distance.masked_fill(self.keypoints[..., 2] <= 0, _NAN)
        return masked

    def cam_transl(self, which: str = "final") -> Float[Tensor, "N 3"]:
        """Where the body stands before the photo's pinhole, metres; NaN with a weak camera."""
        assert self.intrinsics is not None
        crop = crop_intrinsics(self.intrinsics, self.bbox_center, self.bbox_scale)
        return weak_to_pinhole(self._prediction(which).pred_cam, crop)

    def to_photo(
        self, points: Float[Tensor, "N P 3"], which: str = "final"
    ) -> Float[Tensor, "N P 3"]:
        """Points in metres to photo pixels; z is scaled alike, so that it orders depths."""
        cam = self._prediction(which).pred_cam
        half = (0.5 * BOX_UNIT * self.bbox_scale)[:, None]
        xy = self.bbox_center[:, None] + half[..., None] * weak_project(points, cam)
        assert self.intrinsics is not None
        has_pinhole = torch.isfinite(self.intrinsics).all((1, 2))[:, None, None]
        if bool(has_pinhole.any()):
            placed = points + self.cam_transl(which)[:, None]
            xy = torch.where(has_pinhole, project_intrinsics(placed, self.intrinsics), xy)
        z = points[..., 2] * cam[:, :1] * half
        photo: Tensor = torch.cat([xy, z[..., None]], dim=-1)
        return photo

    def measures(self, which: str = "final") -> dict[str, Float[Tensor, " N"]]:
        """Measures of each body at rest, metres: ``height``, limbs (``left_thigh`` ...), widths.

        See ``body.measures``: limbs are distances of SMPL's joints.
        """
        return measure_bodies(self.body(), self._prediction(which).betas)

    def joint_angles_deg(self, which: str = "final") -> dict[str, Float[Tensor, " N"]]:
        """Angles between bones, degrees: ``left_knee``, ``trunk`` ...; 0 of who stands straight."""
        return joint_angles_deg(self.joints3d("smpl24", which))

    def to_dataframe(self, *, pose: bool = False) -> Any:
        """A pandas ``DataFrame``, a row a person; units are in the names of the columns.

        Photo, id, why the fit ended, errors, sureness, box, measures, angles, shape coefficients.

        Args:
            pose: Also the 72 numbers of the pose, axis-angle in radians.

        Raises:
            ModuleNotFoundError: If pandas is not installed.
        """
        from eft_fast.present.table import to_dataframe

        return to_dataframe(self, pose=pose)

    def show(
        self, row: int = 0, photo: Any = None, *, height: int = 420, opacity: float = 0.88
    ) -> Picture:
        """Draw one person over the photo: keypoints, start, fit, and the fit from the side.

        Args:
            row: Which person.
            photo: The photo, in any form of ``fit_batch``; None: the file that the fit names.
                Without one, and where it cannot be read, the person stands on grey.
            height: Height of a tile in pixels.
            opacity: How much a body hides the photo, in [0, 1].

        Returns:
            A Pillow picture, which notebooks show as it is.

        Raises:
            IndexError: If there is no such person.
            ValueError: If ``photo`` is given and no picture.
        """
        from eft_fast.present.picture import show

        return show(self, row, photo, height=height, opacity=opacity)

    def plot(self, photos: Sequence[Any] | None = None, *, height: int = 240) -> Picture:
        """Draw the first twelve people, each as ``show`` does, below each other.

        Args:
            photos: One photo per person; None: the files that the fits name.
            height: Height of a tile in pixels.

        Raises:
            ValueError: If there are no people, or another number of photos.
        """
        from eft_fast.present.picture import plot

        return plot(self, photos, height=height)

    def save(self, path: str | Path) -> None:
        """Write everything but the body to an .npz without pickled objects.

        The file is there whole or not at all: a process that is killed leaves the former one.

        Raises:
            OSError: If it cannot be written; what was there before is as it was.
        """
        arrays: dict[str, Any] = {"format": np.array(_FORMAT)}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name == "_body" or value is None:
                continue
            if isinstance(value, Tensor):
                arrays[item.name] = value.detach().cpu().numpy()
            elif isinstance(value, SmplParams):
                arrays |= _params_to_arrays("", value)
            elif isinstance(value, Prediction):
                arrays |= _params_to_arrays("init_", value.params)
                arrays["init_pred_cam"] = value.pred_cam.numpy()
            else:
                arrays[item.name] = np.array(value, dtype=np.str_)
        save_npz(path, arrays)

    @classmethod
    def load(cls, path: str | Path, *, body: Smpl | None = None) -> FitResult:
        """Read what ``save`` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is not one that ``save`` wrote.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"FitResult.load: no file {path}")
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {key: file[key] for key in file.files}
            return cls._from_arrays(arrays, body)
        except (KeyError, ValueError, OSError, EOFError) as error:
            raise ValueError(
                f"FitResult.load: {path} must be a file that FitResult.save wrote ({error})"
            ) from error
        except Exception as error:  # zipfile.BadZipFile and zlib.error have no common base
            raise ValueError(f"FitResult.load: {path} is damaged ({error})") from error

    @classmethod
    def _from_arrays(cls, arrays: dict[str, np.ndarray], body: Smpl | None) -> FitResult:
        if str(arrays["format"]) != _FORMAT:
            raise ValueError(f"format must be {_FORMAT}, got {arrays['format']}")
        values: dict[str, Any] = {
            "params": _params_from_arrays("", arrays),
            "init": Prediction(
                _params_from_arrays("init_", arrays), torch.from_numpy(arrays["init_pred_cam"])
            ),
        }
        for item in fields(cls):
            if item.name in ("params", "init", "_body"):
                continue
            # Fields of later versions, and those that can be None.
            if item.default is not MISSING and item.name not in arrays:
                continue
            value = arrays[item.name]
            if value.dtype.kind != "U":
                values[item.name] = torch.from_numpy(value)
            else:
                values[item.name] = tuple(value.tolist()) if value.ndim else str(value)
        _check_shapes(values)
        result = cls(**values)
        return result if body is None else result.with_body(body)

    def _prediction(self, which: str) -> Prediction:
        if which == "final":
            return Prediction(self.params, self.pred_cam)
        if which == "init":
            return self.init
        raise ValueError(f"FitResult: which must be 'final' or 'init', got {which!r}")


def _check_shapes(values: Mapping[str, Any]) -> None:
    """Raise ValueError unless the fields of a result are as their annotations state."""
    reasons = values["stop_reason"]
    unknown = set(reasons) - set(STOP_REASONS) if isinstance(reasons, tuple) else {reasons}
    if unknown:
        raise ValueError(f"stop_reason must be of {', '.join(STOP_REASONS)}, got {unknown.pop()!r}")
    sizes = {"N": len(reasons), "K": len(find_joint_set(values["joint_set"]))}
    _check_fields(FitResult, values, sizes)
    _check_fields(Prediction, vars(values["init"]), sizes, "init_")
    for start, params in (("", values["params"]), ("init_", values["init"].params)):
        _check_fields(SmplParams, vars(params), sizes, start)


def _check_fields(
    kind: type, values: Mapping[str, Any], sizes: Mapping[str, int], start: str = ""
) -> None:
    """Check the tensors, tuples and texts of a dataclass; ``sizes`` says how long its axes are."""
    for item in fields(kind):
        stated, value, name = str(item.type), values.get(item.name), start + item.name
        tensor = _STATED.match(stated)
        if value is None:
            continue
        if tensor is not None:
            shape = [sizes[axis] if axis in sizes else int(axis) for axis in tensor[2].split()]
            is_kind = (
                isinstance(value, Tensor) and (tensor[1] == "Float") == value.is_floating_point()
            )
            if not is_kind or list(value.shape) != shape:
                got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(f"{name} must be {tensor[1].lower()} numbers {shape}, got {got}")
        elif stated.startswith("tuple"):
            if not isinstance(value, tuple) or len(value) not in (0, sizes["N"]):
                raise ValueError(f"{name} must be {sizes['N']} texts")
        elif stated == "str" and not isinstance(value, str):
            raise ValueError(f"{name} must be a text, got {type(value).__name__}")


def _stack_answers(answers: Sequence[RegressorOutput | None]) -> Prediction:
    """The answers of people on the CPU; rows of NaN where there is none."""
    shapes = {"pred_rotmat": (NUM_JOINTS, 3, 3), "pred_betas": (NUM_BETAS,), "pred_cam": (3,)}
    rotmat, betas, cam = (
        _stack_rows([None if one is None else getattr(one, name) for one in answers], shape)
        for name, shape in shapes.items()
    )
    return Prediction(SmplParams.from_rotmat(rotmat, betas), cam)


def _stack_outputs(
    fits: Sequence[PersonFit | None], outputs: Mapping[str, tuple[int, ...]], given: int
) -> dict[str, Any]:
    """The optional fields of a result, by name; a negative length is that of given keypoints."""
    return {
        name: _stack_rows(
            [None if fit is None else fit.outputs.get(name) for fit in fits],
            tuple(given if length < 0 else length for length in shape),
        )
        for name, shape in outputs.items()
    }


def _stack_rows(rows: Sequence[Tensor | None], shape: tuple[int, ...]) -> Tensor:
    """Rows [1, *shape] of people, float32 on the CPU; NaN where there is none."""
    out = torch.full((len(rows), *shape), _NAN)
    given = [index for index, row in enumerate(rows) if row is not None]
    if given:
        out[given] = torch.cat([row for row in rows if row is not None]).detach().cpu().float()
    return out


def _stack_arrays(arrays: Sequence[np.ndarray | None], shape: tuple[int, ...]) -> Tensor:
    """Arrays of people, float32; NaN where there is none."""
    nothing = np.full(shape, _NAN)
    given = [nothing if array is None else array for array in arrays]
    return torch.from_numpy(np.stack(given).astype(np.float32)) if given else torch.zeros(0, *shape)


def _tell_reason(person: Prepared, fit: PersonFit | None, reason: str) -> str:
    """What is known of a person before the fits are judged: what was odd, and why it stopped."""
    if reason == "no_keypoints" and person.is_labelled:
        reason = "nothing_counts"
    notes = () if fit is None else fit.notes
    return _join(person.message, _EXPLANATIONS.get(reason, ""), *notes)


def _join(*sentences: str) -> str:
    """Sentences as one message, without the empty ones."""
    return "; ".join(text for text in sentences if text)


def _find_bad_end(error_px: float, side_px: float) -> str:
    """Say that a fit ended far from the keypoints if it did."""
    if not (np.isfinite(error_px) and np.isfinite(side_px)):
        return ""
    return check_error(error_px, [side_px, side_px])


def _pinhole_of(person: Prepared, fit: PersonFit | None) -> np.ndarray | None:
    """The pinhole of a person's photo, as it was given or as the fit assumed it."""
    if person.intrinsics is not None or fit is None or fit.crop_intrinsics is None:
        return person.intrinsics
    place = (np.full(2, _NAN) if person.center is None else person.center)[None]
    box = torch.from_numpy(np.array(place, np.float64)), torch.tensor([person.scale]).double()
    return photo_intrinsics(fit.crop_intrinsics.cpu().double(), *box)[0].numpy()


def _row_index(rows: Rows | int, count: int) -> Tensor:
    everyone = torch.arange(count)
    if isinstance(rows, int):
        if not -count <= rows < count:
            raise IndexError(f"FitResult: index {rows} is out of range for {count} people")
        return everyone[rows : rows + 1] if rows >= 0 else everyone[count + rows : count + rows + 1]
    if isinstance(rows, slice):
        return everyone[rows]
    index = torch.as_tensor(np.asarray(rows))
    if index.numel() == 0 and index.dtype != torch.bool:
        return everyone[:0]
    return everyone[index]


def _params_to_arrays(prefix: str, params: SmplParams) -> dict[str, np.ndarray]:
    return {
        f"{prefix}{item.name}": getattr(params, item.name).detach().cpu().numpy()
        for item in fields(params)
    }


def _params_from_arrays(prefix: str, arrays: dict[str, np.ndarray]) -> SmplParams:
    return SmplParams(
        *(torch.from_numpy(arrays[f"{prefix}{item.name}"]) for item in fields(SmplParams))
    )
