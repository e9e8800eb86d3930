"""An HTTP service over an exported regressor; requests are gathered into batches.

    eft-fast export --out exported --outputs joints
    pip install litserve onnxruntime && python examples/serve_litserve.py exported
    echo "{\"image\": \"$(base64 -w0 skater.jpg)\", \"box\": [30, 40, 200, 380]}" > body.json
    curl -H 'Content-Type: application/json' -d @body.json http://127.0.0.1:8000/predict

With "keypoints": [[x, y, confidence], ...] in the request the body is fitted to them; "joint_set"
names their order where it is not coco17.

Who sends headers or body too slowly is hung up on, and a picture is refused by the size in its
header before it is decoded. Whatever ends the service ends its processes.
"""

import argparse
import ctypes
import os
import signal
import sys

import h11
import litserve as ls
import numpy as np
from fastapi.responses import JSONResponse
from pydantic import Base64Bytes, BaseModel, model_validator
from uvicorn.protocols.http.h11_impl import H11Protocol

from eft_fast.imaging.load import load_image_size
from eft_fast.keypoints import joint_set as find_joint_set
from eft_fast.serving import PhotoFits, Predictor

#: Bytes of a request; base64 makes 4 of 3.
MAX_BYTES = 20_000_000
#: Pixels of a photo: decoding a larger one would keep everybody waiting for seconds.
MAX_PIXELS = 32_000_000
#: Seconds from the first byte of a request, or from the connection, to the last byte.
PATIENCE = 15.0
#: What is answered, as far as a prediction or a fit has it.
NAMES = "rotmat betas cam joints joints_2d_px joint_sigma_mm kp_error_px init_kp_error_px".split()
_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Let the system end this process when its parent ends, however that happens (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class PatientProtocol(H11Protocol):
    """HTTP/1.1 of uvicorn, which waits for the end of a request for ever."""

    def connection_made(self, transport):
        super().connection_made(transport)
        self.deadline = self.loop.call_later(PATIENCE, self.hang_up)

    def data_received(self, data):
        is_new = self.conn.their_state is h11.IDLE and self.deadline.cancelled()
        if is_new:
            self.deadline = self.loop.call_later(PATIENCE, self.hang_up)
        super().data_received(data)
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self.deadline.cancel()

    def connection_lost(self, exc):
        self.deadline.cancel()
        super().connection_lost(exc)

    def hang_up(self):
        self.transport.close()


class Photo(BaseModel):
    image: Base64Bytes  # any picture file
    box: tuple[float, float, float, float] | None = None  # x, y, width, height; None: all of it
    keypoints: list[tuple[float, float, float]] | None = None  # x, y, confidence; None: no fit
    joint_set: str = "coco17"

    @model_validator(mode="after")
    def check_keypoints(self):
        count = len(find_joint_set(self.joint_set))
        if self.keypoints is not None and len(self.keypoints) != count:
            raise ValueError(f"keypoints must be {count} of {self.joint_set}")
        return self


class BodyApi(ls.LitAPI):
    def __init__(self, model: str, provider: str) -> None:
        super().__init__(max_batch_size=32, batch_timeout=0.01)
        self.model, self.provider = model, provider

    def setup(self, device: str) -> None:
        end_with_parent()
        self.predictor = Predictor(self.model, provider=self.provider)

    def decode_request(self, request: Photo):
        box = request.box or [float("nan")] * 4
        return request.image, box, request.keypoints, request.joint_set

    def batch(self, inputs):
        return inputs

    def predict(self, people):
        # An unreadable photo spoils its own answer alone; an exception would spoil the whole batch.
        answers = [None if is_small(image) else too_large() for image, *_ in people]
        for order in {wanted_order(person) for person in people}:
            rows = [
                row
                for row, person in enumerate(people)
                if answers[row] is None and wanted_order(person) == order
            ]
            images, boxes, keypoints, _ = ([people[row][i] for row in rows] for i in range(4))
            try:
                if order is None:
                    found = self.predictor(images, boxes)
                else:
                    found = self.predictor.fit(images, keypoints, boxes, joint_set=order)
            except ValueError as error:  # The export, or its body, cannot do that.
                for row in rows:
                    answers[row] = refuse(str(error), 422)
            else:
                for place, row in enumerate(rows):
                    answers[row] = found, place
        return answers

    def unbatch(self, output):
        return output

    def encode_response(self, output):
        if isinstance(output, JSONResponse):
            return output
        found, row = output
        if np.isnan(found.betas[row]).any():
            return refuse(found.message[row], 422)
        arrays = {name: getattr(found, name, None) for name in NAMES}
        answer = {name: numbers(value[row]) for name, value in arrays.items() if value is not None}
        if isinstance(found, PhotoFits):
            answer |= {"stop_reason": found.stop_reason[row], "message": found.message[row]}
        return answer


def wanted_order(person):
    """Joint set of the keypoints to fit to; None: the model's answer alone."""
    return None if person[2] is None else person[3]


def refuse(message: str, status: int) -> JSONResponse:
    return JSONResponse({"error": message}, status_code=status)


def too_large() -> JSONResponse:
    return refuse(f"the photo must have at most {MAX_PIXELS} pixels", 413)


def numbers(values):
    """Lists that JSON can say: what is not known is null."""
    return np.where(np.isfinite(values), values.astype(object), None).tolist()


def is_small(image: bytes) -> bool:
    """Whether the header of a picture promises a size that is decoded in no time."""
    try:
        width, height = load_image_size(image)
    except ValueError:
        return True  # The predictor says what is wrong.
    return width * height <= MAX_PIXELS


def interrupt(number, frame):
    """End as after Ctrl-C: litserve ends its processes then, and not on SIGTERM."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="what eft-fast export wrote")
    parser.add_argument("--provider", default="auto")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, interrupt)
    os.register_at_fork(after_in_child=end_with_parent)
    api = BodyApi(options.model, options.provider)
    server = ls.LitServer(api, accelerator="cpu", max_payload_size=MAX_BYTES)
    server.run(
        host=options.host,
        port=options.port,
        generate_client_file=False,
        http=PatientProtocol,
        limit_concurrency=512,
    )
