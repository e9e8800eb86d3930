"""How much memory a person in a slot takes, and how many fit on a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from eft_fast.eft.batched.graph_slots import can_run_on_kernels
from eft_fast.eft.config import EftConfig
from eft_fast.eft.loss import EftLoss, EftTarget, resolve_tie
from eft_fast.eft.modes import make_network, share
from eft_fast.models.base import Regressor, RegressorOutput

if TYPE_CHECKING:
    from eft_fast.body.smpl import Smpl

#: More slots than this fill any GPU and only delay the first results.
MOST_SLOTS: Final = 256
#: Part of the free memory that slots may take; the rest is for workspaces and for others.
_SHARE: Final = 0.8


def slots_that_fit(regressor: Regressor, body: Smpl, *, mode: str, config: EftConfig) -> int:
    """How many people the free memory of the regressor's GPU holds at once; at least one.

    What the allocator keeps of an earlier fit counts as free: it is given back first.
    """
    device = next(regressor.parameters()).device
    needed = bytes_per_slot(regressor, body, mode=mode, config=config)
    with torch.cuda.device(device):
        torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, min(MOST_SLOTS, int(_SHARE * free) // needed))


def bytes_per_slot(regressor: Regressor, body: Smpl, *, mode: str, config: EftConfig) -> int:
    """Private weights, gradient and moments of one person, and what backward has to keep.

    Counted on one forward pass of the very network, not estimated.
    """
    config = resolve_tie(config, regressor)
    network, tuned = make_network(regressor, mode, config)
    moving, parameters = share(network, tuned)
    like = next(regressor.parameters())
    size = regressor.input_size
    inputs = moving.prepare(like.new_zeros(1, 3, size, size))
    private = {parameters[id(each)].data_ptr() for each in tuned}
    shared = {tensor.data_ptr() for tensor in moving.state_dict().values()} | private
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in shared:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
        output = moving(inputs)
        keypoints = like.new_zeros(1, 49, 3)
        start = RegressorOutput(*(part.detach() for part in output))
        EftLoss(regressor, body, config)(output, EftTarget(keypoints, given=keypoints), start)
    numbers = sum(each.numel() for each in tuned)
    width = like.element_size()
    state = 2 if config.state == "bf16" else width
    # Difference and two moments; without kernels also weight and gradient of the step at hand.
    passing = 0 if can_run_on_kernels(regressor, mode, config) else 2 * width
    return numbers * (3 * state + passing) + sum(kept.values())
