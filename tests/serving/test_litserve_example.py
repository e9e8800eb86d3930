"""The example service, started and queried over loopback."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eft_fast.serving import Predictor

REPO = Path(__file__).resolve().parent.parent.parent
PHOTO = REPO / "eft_fast" / "assets" / "demo" / "cameraman.png"
BOXES = [[80.0, 60.0, 300.0 + 10 * number, 400.0] for number in range(6)]

pytest.importorskip("litserve", reason="the extra serve is not installed")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running_service(model):
    """Port and process of a service over an exported folder."""
    port = free_port()
    command = [sys.executable, REPO / "examples" / "serve_litserve.py", model]
    process = subprocess.Popen(
        [*map(str, command), "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    try:
        for _ in range(240):
            if process.poll() is not None:
                pytest.fail(process.stdout.read().decode()[-2000:])
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as reply:
                    if reply.status == 200:
                        break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail("the service did not start within two minutes")
        yield port, process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait(20)


@pytest.fixture(scope="module")
def service(tiny_export):
    """Port of a running service."""
    with running_service(tiny_export) as (port, _):
        yield port


def ask(port: int, body: bytes) -> tuple[int, dict]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/predict", body, {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"{}")


def body_of(image: bytes, box=None, **more) -> bytes:
    return json.dumps({"image": base64.b64encode(image).decode(), "box": box, **more}).encode()


def test_concurrent_requests_get_their_own_answers(service, tiny_export):
    photo = PHOTO.read_bytes()
    with ThreadPoolExecutor(len(BOXES) + 1) as pool:
        asked = [pool.submit(ask, service, body_of(photo, box)) for box in BOXES]
        spoiled = pool.submit(ask, service, body_of(b"this is no picture"))
    expected = Predictor(tiny_export, provider="cpu")([photo] * len(BOXES), BOXES)
    for row, answer in enumerate(asked):
        status, found = answer.result()
        assert status == 200
        for name in ("rotmat", "betas", "cam", "joints", "joints_2d_px"):
            np.testing.assert_allclose(
                found[name], getattr(expected, name)[row], rtol=1e-4, atol=1e-3
            )
    assert np.ptp(expected.cam, axis=0).max() > 1e-3, "the boxes do not tell people apart"
    status, found = spoiled.result()
    assert status == 422
    assert "not a picture" in found["error"]


def test_keypoints_are_fitted_to(service, tiny_export):
    photo, predictor = PHOTO.read_bytes(), Predictor(tiny_export, provider="cpu")
    answers = predictor([photo] * 2, BOXES[:2]).joints_2d_px[:, :24]
    keypoints = np.concatenate([answers + 3.0, np.ones((2, 24, 1))], 2).astype(float)
    bodies = [
        body_of(photo, box, keypoints=points.tolist(), joint_set="smpl24")
        for box, points in zip(BOXES, keypoints, strict=False)
    ]
    bodies.append(body_of(photo, BOXES[0]))
    bodies.append(body_of(photo, BOXES[0], keypoints=[[0, 0, 0]] * 17))
    bodies.append(body_of(photo, BOXES[0], keypoints=[[9, 9, 1]] * 28, joint_set="mpiinf28"))
    with ThreadPoolExecutor(len(bodies)) as pool:
        replies = list(pool.map(lambda body: ask(service, body), bodies))
    expected = predictor.fit([photo] * 2, keypoints, BOXES[:2], joint_set="smpl24")
    for row in range(2):
        status, found = replies[row]
        assert status == 200
        assert found["stop_reason"] == "converged"
        for name in ("rotmat", "betas", "cam", "joints_2d_px", "joint_sigma_mm", "kp_error_px"):
            np.testing.assert_allclose(
                found[name], getattr(expected, name)[row], rtol=1e-2, atol=1e-2
            )
    status, found = replies[2]
    assert (status, "stop_reason" in found) == (200, False)
    status, found = replies[3]
    assert (status, found["stop_reason"], found["kp_error_px"]) == (200, "no_keypoints", None)
    status, found = replies[4]
    assert status == 422
    assert "joint_set must be one of" in found["error"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (body_of(PHOTO.read_bytes(), keypoints=[[1, 2, 3]]), 422),
        (body_of(PHOTO.read_bytes(), joint_set="coco71"), 422),
        (b"{", 422),
        (b'{"picture": ""}', 422),
        (b'{"image": "?"}', 422),
        (body_of(b""), 422),
        (body_of(PHOTO.read_bytes()[:3000]), 422),
        (body_of(PHOTO.read_bytes(), [0, 0, -5, 20]), 422),
    ],
)
def test_bad_requests_are_refused_in_words(service, body, status):
    got, found = ask(service, body)
    assert got == status
    assert found.get("error") or found.get("detail")


def test_an_oversized_upload_is_refused(service):
    try:
        status, _ = ask(service, b" " * 21_000_000)
    except OSError:  # The service may hang up before everything is sent.
        status = 413
    assert status == 413
    assert ask(service, body_of(PHOTO.read_bytes()))[0] == 200


def test_a_client_that_hangs_up_disturbs_nobody(service):
    body = body_of(PHOTO.read_bytes())
    head = (
        f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    for sent in (head + body[: len(body) // 2], head + body):
        with socket.create_connection(("127.0.0.1", service), timeout=10) as client:
            client.sendall(sent)
    with ThreadPoolExecutor(4) as pool:
        statuses = list(pool.map(lambda _: ask(service, body)[0], range(4)))
    assert statuses == [200] * 4


def test_a_giant_picture_is_refused_before_it_is_decoded(service):
    """40 kB that unfold to 100 megapixels; the answer does not wait for them."""
    giant = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(giant, "PNG")
    began = time.monotonic()
    status, found = ask(service, body_of(giant.getvalue()))
    assert (status, time.monotonic() - began < 2) == (413, True)
    assert "pixels" in found["error"]


def test_a_client_that_never_ends_its_headers_is_hung_up_on(service):
    with socket.create_connection(("127.0.0.1", service), timeout=30) as client:
        client.sendall(b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        assert client.recv(1) == b""


def test_a_client_that_pauses_in_its_second_headers_is_hung_up_on(service):
    """The first request of a connection that is kept is answered; the next never ends."""
    with socket.create_connection(("127.0.0.1", service), timeout=30) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
        client.sendall(b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        began = time.monotonic()
        while time.monotonic() < began + 25:  # a header every second keeps no connection open
            try:
                client.sendall(b"X-Pad: 1\r\n")
            except OSError:
                break
            client.settimeout(1)
            with contextlib.suppress(TimeoutError):
                if client.recv(1) == b"":
                    break
        assert time.monotonic() - began < 22


def test_the_commands_of_the_example_work_as_written(service, tmp_path):
    if shutil.which("curl") is None or shutil.which("base64") is None:
        pytest.skip("runs curl and base64")
    lines = (REPO / "examples" / "serve_litserve.py").read_text().split('"""')[1].splitlines()
    commands = [line.strip() for line in lines if line.strip().startswith(("echo", "curl"))]
    assert len(commands) == 2
    shutil.copy(PHOTO, tmp_path / "skater.jpg")
    script = "\n".join(commands).replace("8000", str(service))
    done = subprocess.run(
        ["bash", "-ec", script], cwd=tmp_path, capture_output=True, timeout=60, check=True
    )
    assert {"rotmat", "betas", "cam"} <= set(json.loads(done.stdout))


def children_of(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(stat[1]) == pid and stat[0] != "Z":
                    found.append(int(entry.name))
    return found


def is_alive(pid: int) -> bool:
    """Whether it runs; one that nobody waited for has no command line any more."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_its_processes_end_with_the_service(tiny_export, end):
    if not Path("/proc").is_dir():
        pytest.skip("looks for processes in /proc")
    with running_service(tiny_export) as (_, process):
        below = children_of(process.pid)
        assert below
        process.send_signal(end)
        process.wait(30)
        deadline = time.monotonic() + 15
        while any(map(is_alive, below)) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not [pid for pid in below if is_alive(pid)]
