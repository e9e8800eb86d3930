"""HMR in a few lines over a state dict, and made-up weights under the real names."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from eft_fast.models.hmr import Hmr


def make_state(network: Hmr, seed: int = 0) -> dict[str, torch.Tensor]:
    """Made-up weights under the real names; activations stay of order one."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
            continue
        noise = torch.randn(value.shape, generator=generator)
        if name.endswith("running_var"):
            state[name] = 1 + 0.3 * noise.tanh()
        elif value.dim() > 1 and "init" not in name:
            state[name] = noise * (1.0 / value[0].numel()) ** 0.5
        elif "bn" in name and name.endswith("weight"):
            state[name] = 1 + 0.1 * noise
        else:
            state[name] = value + 0.1 * noise
    return state


def plain_forward(state, img, *, stride_in_1x1=False):
    """The same network in a few lines, straight from the state dict."""

    def norm(x, name):
        keys = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{name}.{key}"] for key in keys), eps=1e-5)

    x = F.relu(norm(F.conv2d(img, state["conv1.weight"], stride=2, padding=3), "bn1"))
    x = F.max_pool2d(x, 3, 2, 1)
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            p = f"layer{stage}.{block}."
            stride = 2 if stage > 1 and block == 0 else 1
            one, three = (stride, 1) if stride_in_1x1 else (1, stride)
            y = F.relu(norm(F.conv2d(x, state[p + "conv1.weight"], stride=one), p + "bn1"))
            y = F.conv2d(y, state[p + "conv2.weight"], stride=three, padding=1)
            y = norm(F.conv2d(F.relu(norm(y, p + "bn2")), state[p + "conv3.weight"]), p + "bn3")
            if block == 0:
                x = F.conv2d(x, state[p + "downsample.0.weight"], stride=stride)
                x = norm(x, p + "downsample.1")
            x = F.relu(x + y)
    features = x.mean((2, 3))
    theta = [state[f"init_{name}"].expand(len(img), -1) for name in ("pose", "shape", "cam")]
    for _ in range(3):
        hidden = torch.cat([features, *theta], 1)
        for layer in ("fc1", "fc2"):
            hidden = F.linear(hidden, state[f"{layer}.weight"], state[f"{layer}.bias"])
        for i, layer in enumerate(("decpose", "decshape", "deccam")):
            step = F.linear(hidden, state[f"{layer}.weight"], state[f"{layer}.bias"])
            theta[i] = theta[i] + step
    flat = theta[0].reshape(-1, 24, 6)
    a1, a2 = flat[..., 0::2], flat[..., 1::2]
    b1 = F.normalize(a1, dim=-1)
    b2 = F.normalize(a2 - (b1 * a2).sum(-1, keepdim=True) * b1, dim=-1)
    rotmat = torch.stack([b1, b2, torch.linalg.cross(b1, b2)], -1)
    return rotmat, theta[1], theta[2]
