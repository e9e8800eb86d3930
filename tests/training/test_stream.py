"""Training on pictures that are drawn as they are needed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from eft_fast.body import Smpl
from eft_fast.imaging import to_input
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.synth import PosePool, Renderer, SynthArrays, SynthConfig
from eft_fast.synth.stream import BankSize, SynthBatches
from eft_fast.training.config import FinetuneConfig
from eft_fast.training.finetune import finetune
from eft_fast.training.stream import RenderedStream, normalise_batch
from eft_fast.training.targets import make_targets

CONFIG = FinetuneConfig(steps=4, batch=3, warmup=1, frozen_stages=0, head_lr=1e-3)


@pytest.fixture(scope="module")
def source(open_body: Smpl, pool: PosePool) -> RenderedStream:
    renderer = Renderer(open_body, pool, "train", config=SynthConfig(supersample=1))
    bank = BankSize(poses=20, outfits=3, pictures=3)
    return RenderedStream(SynthBatches(renderer, torch.device("cpu"), batch=3, bank=bank))


def test_inputs_and_labels_are_those_of_stored_pictures(
    source: RenderedStream, open_body: Smpl
) -> None:
    batch = source.batches.get(5)
    inputs, targets = source.draw(5)
    numbers = OpenRegressor.img_mean, OpenRegressor.img_std
    expected = torch.from_numpy(to_input(batch.image.numpy(), *numbers))
    torch.testing.assert_close(inputs, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(normalise_batch(batch.image, OpenRegressor), inputs, rtol=0, atol=0)
    fields = {name: getattr(batch, name).numpy() for name in SynthArrays.__dataclass_fields__}
    for ours, stored in zip(targets, make_targets(SynthArrays(**fields), open_body), strict=True):
        torch.testing.assert_close(ours, stored)
    torch.testing.assert_close(targets.landmarks_2d, batch.landmarks_2d[..., :2], rtol=0, atol=1e-4)


def test_a_stopped_run_ends_with_the_same_weights(
    source: RenderedStream, open_body: Smpl, tmp_path
) -> None:
    whole, parts = OpenRegressor.make_tiny(), OpenRegressor.make_tiny()
    parts.load_state_dict(whole.state_dict())
    start = {name: value.clone() for name, value in whole.state_dict().items()}
    losses = finetune(whole, open_body, source, None, CONFIG)
    assert len(losses) == 4
    state = tmp_path / "run.pt"

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(parts, open_body, source, None, CONFIG, state=state, save_every=2, on_save=stop)
    assert len(finetune(parts, open_body, source, None, CONFIG, state=state)) == 2
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], value, msg=name)
    moved = [not torch.equal(value, start[name]) for name, value in whole.state_dict().items()]
    assert sum(moved) > 10


def test_stored_pictures_need_their_labels(
    open_body: Smpl, network: OpenRegressor, arrays: SynthArrays
) -> None:
    from eft_fast.training.cache import PictureStack

    with pytest.raises(ValueError, match="labels of the source expected"):
        finetune(network, open_body, PictureStack(arrays.image), None, replace(CONFIG, steps=1))
