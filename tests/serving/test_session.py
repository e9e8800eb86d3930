"""Sessions: the provider that was asked for or a sentence; bad files are refused in words."""

from __future__ import annotations

import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import onnx
import pytest

from eft_fast.serving import load_card, open_session, usable_cpus
from eft_fast.serving.onnx_session import heavy_on_cpu
from tests.serving.fake_runtime import CPU, CUDA, FakeRuntime


@pytest.fixture(scope="module")
def session(tiny_export):
    return open_session(tiny_export, provider="cpu", threads=1)


@pytest.fixture
def folder(tiny_export, tmp_path):
    """A copy to break."""
    return shutil.copytree(tiny_export, tmp_path / "copy")


def crops(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 256, 256, 3), dtype=np.uint8)


def test_any_batch_gives_everybody_the_same_answer(session):
    images = crops(5)
    together = session.run(images)
    names = ["rotmat", "betas", "cam", "joints", "vertices", "confidence"]
    assert list(together) == names
    for name, value in together.items():
        alone = np.concatenate([session.run(image[None])[name] for image in images])
        np.testing.assert_allclose(value, alone, atol=1e-5)
        assert value.dtype == np.float32
    nobody = session.run(crops(0))
    assert nobody["rotmat"].shape == (0, 24, 3, 3)
    assert nobody["vertices"].shape == (0, 6890, 3)


def test_views_that_are_not_contiguous_are_taken(session):
    images = crops(2)
    mirrored = session.run(images[:, :, ::-1])
    copied = session.run(np.ascontiguousarray(images[:, :, ::-1]))
    np.testing.assert_array_equal(mirrored["cam"], copied["cam"])


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
def test_threads_may_share_a_session(tiny_export, provider):
    if provider == "openvino":
        pytest.importorskip("openvino", reason="the extra openvino is not installed")
    shared = open_session(tiny_export, provider=provider, threads=1)
    batches = [crops(2, seed) for seed in range(6)]
    expected = [shared.run(batch) for batch in batches]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(shared.run, batches))
    for got, right in zip(found, expected, strict=True):
        np.testing.assert_array_equal(got["betas"], right["betas"])


@pytest.mark.parametrize(
    ("images", "kind", "words"),
    [
        (crops(1).astype(np.float32), TypeError, "must be a uint8 array, got float32"),
        ([1, 2], TypeError, "must be a uint8 array, got list"),
        (crops(1)[0], ValueError, r"must be \[B, 256, 256, 3\], got \[256, 256, 3\]"),
        (crops(1)[:, :224, :224], ValueError, r"got \[1, 224, 224, 3\]"),
        (crops(1).transpose(0, 3, 1, 2), ValueError, r"got \[1, 3, 256, 256\]"),
    ],
)
def test_wrong_crops_are_refused(session, images, kind, words):
    with pytest.raises(kind, match=words):
        session.run(images)


def test_providers_are_asked_for_by_name(tiny_export):
    with pytest.raises(ValueError, match="provider must be one of"):
        open_session(tiny_export, provider="gpu")
    with pytest.raises(ValueError, match="threads must be 1 or more"):
        open_session(tiny_export, threads=0)
    with pytest.raises(ValueError, match="precision can be chosen for OpenVINO only"):
        open_session(tiny_export, provider="cpu", precision="bf16")


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_gpu_that_is_not_there_is_a_sentence(tiny_export, provider):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime was built for CUDA")
    with pytest.raises(RuntimeError, match=f"provider {provider} was asked for") as caught:
        open_session(tiny_export, provider=provider)
    assert "onnxruntime-gpu" in str(caught.value)
    assert str(caught.value).count("\n") == 0
    assert open_session(tiny_export, provider="auto").provider == "cpu"


def test_a_silent_fall_back_raises(monkeypatch, tiny_export, capsys):
    """What ONNX Runtime does where CUDA cannot be loaded: no exception, and the CPU."""
    fake = FakeRuntime([CPU], [])
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    words = r"cuda was asked for, but the model would run on CPU \(.*providers_cuda\.so"
    with pytest.raises(RuntimeError, match=words):
        open_session(tiny_export, provider="cuda")
    assert fake.severities == [4, 2], "the logger is not put back"
    assert open_session(tiny_export, provider="auto").provider == "cpu"
    assert capsys.readouterr().out == ""


def test_heavy_operators_must_be_on_the_provider(monkeypatch, tiny_export):
    fake = FakeRuntime([CUDA, CPU], [(CUDA, ["Conv"]), (CPU, ["Shape", "Gather", "Gemm"])])
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    with pytest.raises(RuntimeError, match="but Gemm of this model would run on the CPU"):
        open_session(tiny_export, provider="cuda")
    fake.parts = [(CUDA, ["Conv", "Gemm"]), (CPU, ["Shape", "Gather"])]
    assert open_session(tiny_export, provider="cuda").provider == "cuda"
    assert heavy_on_cpu([(CPU, ["QLinearConv", "MatMul"]), (CUDA, ["Conv"])]) == [
        "MatMul", "QLinearConv",
    ]  # fmt: skip


def test_tensorrt_is_told_every_batch_size_at_once(monkeypatch, tiny_export):
    fake = FakeRuntime(["TensorrtExecutionProvider", CUDA, CPU], [])
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    assert open_session(tiny_export, provider="tensorrt").provider == "tensorrt"
    (first, options), (second, _) = fake.asked
    assert (first, second) == ("TensorrtExecutionProvider", CUDA)
    assert options["trt_profile_min_shapes"] == "image:1x256x256x3"
    assert options["trt_profile_max_shapes"] == "image:16x256x256x3"
    assert load_card(tiny_export).weights_sha256[:12] in options["trt_engine_cache_path"]


def test_openvino_answers_the_same(tiny_export, session):
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    other = open_session(tiny_export, provider="openvino", threads=1)
    assert other.provider == "openvino"
    images = crops(3)
    for name, value in session.run(images).items():
        np.testing.assert_allclose(other.run(images)[name], value, atol=1e-4)


def test_bf16_needs_an_export_that_was_measured_with_it(tiny_export, folder):
    openvino = pytest.importorskip("openvino", reason="the extra openvino is not installed")
    with pytest.raises(ValueError, match="was not measured in bf16; export it with"):
        open_session(tiny_export, provider="openvino", precision="bf16")
    with pytest.raises(ValueError, match="precision must be one of"):
        open_session(tiny_export, provider="openvino", precision="fp8")
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has bf16")
    card = load_card(folder)
    (folder / "files.json").unlink()  # hashes of the files as they were exported
    (folder / "export.json").write_text(replace(card, precision="bf16").to_json())
    with pytest.raises(RuntimeError, match="finds none in this processor; use an export in fp32"):
        open_session(folder, provider="openvino")


def rewrite(folder, change):
    model = onnx.load(folder / "model.onnx")
    change(model)
    onnx.save(model, folder / "model.onnx")
    # The hashes of the export would stop the reading first.
    (folder / "files.json").unlink()


def set_card(model, **values):
    inside = {item.key: item.value for item in model.metadata_props}
    onnx.helper.set_model_props(model, inside | values)


def forget(model, key):
    model.metadata_props.remove(next(item for item in model.metadata_props if item.key == key))


def fix_batch(model):
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4


def test_damaged_and_foreign_files_are_refused(folder, tmp_path):
    path = folder / "model.onnx"
    whole = path.read_bytes()
    (folder / "files.json").unlink()
    for content, words in [
        (b"", "is empty"),
        (whole[: len(whole) // 2], "is damaged or not a model"),
        (b"\xff" * 5000, "is damaged or not a model"),
        (b"PK\x03\x04 this is no model", "is damaged or not a model"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=words) as caught:
            open_session(folder, provider="cpu")
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="no folder or model"):
        open_session(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"expected a folder, \.onnx or \.xml file"):
        open_session(folder / "samples.npz")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: set_card(m, std="[1, 1, true]"), "std is missing or wrong"),
        (lambda m: forget(m, "licence"), "licence is missing or wrong"),
        (lambda m: m.ClearField("metadata_props"), "is not a model that eft-fast exported"),
        (lambda m: set_card(m, format="eft_fast-export-0"), "must be of format eft_fast-export-1"),
        (lambda m: set_card(m, input_size="224"), "must take image uint8"),
        (lambda m: set_card(m, input_size='"big"'), "input_size is missing or wrong"),
        (lambda m: set_card(m, outputs='{"rotmat": [24, 3, 3]}'), "has no output betas"),
        (lambda m: set_card(m, outputs='{"pose": [72]}'), "unknown output pose"),
        (lambda m: set_card(m, outputs='{"rotmat": [23, 3, 3]}'), "rotmat must be"),
        (lambda m: set_card(m, joint_names="[]"), "must name each of its joints"),
        (lambda m: set_card(m, box_margin="NaN"), "has box_margin nan"),
        (lambda m: set_card(m, box_margin="-1"), "has box_margin -1"),
        (lambda m: set_card(m, std="[1, 0, 1]"), "has std"),
        (lambda m: set_card(m, camera_convention="shift_scale"), "has camera_convention shift"),
        (lambda m: set_card(m, outputs="[" * 100_000), "outputs is missing or wrong"),
        (fix_batch, "must take image uint8"),
        (lambda m: m.graph.output.pop(), "must have the outputs"),
    ],
)
def test_models_that_do_not_fit_their_description_are_refused(folder, change, words):
    rewrite(folder, change)
    with pytest.raises(ValueError, match=words):
        open_session(folder, provider="cpu")


@pytest.mark.parametrize("name", ["model.onnx", "export.json"])
def test_files_that_are_not_those_of_the_export_are_refused(folder, name):
    """One bit is enough; the samples, which only ``verify`` reads, may be missing."""
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 0x40
    (folder / "samples.npz").unlink()
    open_session(folder, provider="cpu")
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} is not the file that was exported"):
        open_session(folder, provider="cpu")


def test_an_export_of_an_earlier_version_is_served(folder, session):
    """It names no weights and may state no normalisation, which lies in its graph."""

    def age(model):
        set_card(model, regressor="open-1")
        forget(model, "mean")
        forget(model, "std")

    rewrite(folder, age)
    old = open_session(folder, provider="cpu", threads=1)
    assert (old.card.mean, old.card.std) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert old.card.regressor == "open-1"
    images = crops(2)
    for name, value in session.run(images).items():
        np.testing.assert_array_equal(old.run(images)[name], value)


def test_a_runtime_that_is_not_installed_is_named(monkeypatch, tiny_export):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match="pip install onnxruntime"):
        open_session(tiny_export, provider="cpu")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ImportError, match="pip install openvino"):
        open_session(tiny_export, provider="openvino")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 64),
        ({"/sys/fs/cgroup/cpu.max": "max 100000"}, 64),
        ({"/sys/fs/cgroup/cpu.max": "150000 100000"}, 2),
        ({"/sys/fs/cgroup/cpu.max": "10000 100000"}, 1),
        (
            {
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000",
                "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            3,
        ),
        ({"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1"}, 64),
        ({"/sys/fs/cgroup/cpu.max": "nonsense"}, 64),
    ],
)
def test_threads_follow_affinity_and_quota(monkeypatch, files, expected):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)))
    assert usable_cpus(files.get) == expected


def test_the_card_round_trips(tiny_export):
    card = load_card(tiny_export)
    assert type(card).from_mapping(json.loads(card.to_json()), "x") == card
    assert type(card).from_strings(card.to_strings(), "x") == card
