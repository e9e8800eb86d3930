"""An HTTP service over an exported regressor; requests are gathered into batches.

    eft-fast export --out exported --outputs joints
    pip install 'eft-fast[serve]' && python examples/serve_litserve.py exported
    curl -H 'Content-Type: application/json' http://127.0.0.1:8000/predict \
        -d "{\"image\": \"$(base64 -w0 skater.jpg)\", \"box\": [30, 40, 200, 380]}"
"""

import argparse

import litserve as ls
from fastapi.responses import JSONResponse
from pydantic import Base64Bytes, BaseModel

from eft_fast.serving import Predictor


class Photo(BaseModel):
    image: Base64Bytes  # any picture file
    box: tuple[float, float, float, float] | None = None  # x, y, width, height; None: all of it


class BodyApi(ls.LitAPI):
    def __init__(self, model: str, provider: str) -> None:
        super().__init__(max_batch_size=32, batch_timeout=0.01)
        self.model, self.provider = model, provider

    def setup(self, device: str) -> None:
        self.predictor = Predictor(self.model, provider=self.provider)

    def decode_request(self, request: Photo):
        return request.image, request.box or [float("nan")] * 4

    def batch(self, inputs):
        return inputs

    def predict(self, people):
        # An unreadable photo spoils its own answer alone; an exception would spoil the whole batch.
        found = self.predictor([image for image, _ in people], [box for _, box in people])
        return [(found, row) for row in range(len(found))]

    def unbatch(self, output):
        return output

    def encode_response(self, output):
        found, row = output
        if found.message[row]:
            return JSONResponse({"error": found.message[row]}, status_code=422)
        names = ("rotmat", "betas", "cam", "joints", "joints_2d_px")
        arrays = {name: getattr(found, name) for name in names}
        return {name: value[row].tolist() for name, value in arrays.items() if value is not None}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="what eft-fast export wrote")
    parser.add_argument("--provider", default="auto")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    api = BodyApi(options.model, options.provider)
    server = ls.LitServer(api, accelerator="cpu", max_payload_size=20_000_000)
    server.run(host=options.host, port=options.port, generate_client_file=False)
