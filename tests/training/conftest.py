"""A few rendered people and a network of a thousandth of the size."""

from __future__ import annotations

import numpy as np
import pytest

from eft_fast.body import Smpl, load_body
from eft_fast.models.open_regressor import OpenRegressor, landmark_features
from eft_fast.synth import PosePool, Renderer, SynthArrays, SynthConfig, stack_samples
from eft_fast.training.cache import CachedFeatures, CachedPair, run_source
from eft_fast.training.targets import Targets, make_targets
from tests.training.pictures import Pictures


@pytest.fixture(scope="session")
def open_body() -> Smpl:
    return load_body()


@pytest.fixture(scope="session")
def pool() -> PosePool:
    rng = np.random.default_rng(3)
    full_pose = rng.normal(size=(20, 24, 3)).astype(np.float32) * 0.25
    full_pose[:, 0] = 0
    return PosePool(full_pose, np.full(20, 0.05), np.array([f"walk/{i}" for i in range(20)]))


@pytest.fixture(scope="session")
def arrays(open_body: Smpl, pool: PosePool) -> SynthArrays:
    renderer = Renderer(open_body, pool, "train", config=SynthConfig(supersample=1))
    return stack_samples(renderer.render(index) for index in range(12))


@pytest.fixture(scope="session")
def targets(arrays: SynthArrays, open_body: Smpl) -> Targets:
    return make_targets(arrays, open_body)


@pytest.fixture
def network() -> OpenRegressor:
    return OpenRegressor.make_tiny()


@pytest.fixture(scope="session")
def rendered(arrays: SynthArrays) -> CachedPair:
    network, source = OpenRegressor.make_tiny(), Pictures(arrays.image)

    def cached(mirrored: bool) -> CachedFeatures:
        output = run_source(network, source, mirrored=mirrored)
        return CachedFeatures(landmark_features(output)[0], output.features, output.score)

    return CachedPair(cached(False), cached(True))
