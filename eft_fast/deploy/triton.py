"""The model repository of NVIDIA Triton: its configuration text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from eft_fast.serving.card import INPUT_NAME, ModelCard

MODEL_NAME: Final = "eft_fast"
#: Batches that Triton prefers to gather, and how long a request waits for others.
_PREFERRED: Final = (8, 32)
_MAX_DELAY_US: Final = 2000


def make_config(card: ModelCard) -> str:
    """Text of ``config.pbtxt``: ONNX Runtime, batches gathered from requests, and a warm-up.

    Triton puts the batch dimension in front by itself, so that no shape below has it.
    """
    size = card.input_size
    batches = sorted({*(b for b in _PREFERRED if b < card.max_batch), card.max_batch})
    outputs = ",\n".join(
        f'  {{ name: "{name}" data_type: TYPE_FP32 dims: {_dims(shape)} }}'
        for name, shape in card.outputs.items()
    )
    crop = _dims([size, size, 3])
    return f"""\
name: "{MODEL_NAME}"
backend: "onnxruntime"
max_batch_size: {card.max_batch}
input [
  {{ name: "{INPUT_NAME}" data_type: TYPE_UINT8 dims: {crop} }}
]
output [
{outputs}
]
dynamic_batching {{
  preferred_batch_size: {_dims(batches)}
  max_queue_delay_microseconds: {_MAX_DELAY_US}
}}
instance_group [
  {{ count: 1 kind: KIND_AUTO }}
]
model_warmup [
{_warmups(batches, crop)}
]
"""


def _warmups(batches: Sequence[int], crop: str) -> str:
    """One request per preferred batch: the first of each size is slow on a GPU."""
    return ",\n".join(
        f"""\
  {{
    name: "batch_{batch}"
    batch_size: {batch}
    inputs {{
      key: "{INPUT_NAME}"
      value {{ data_type: TYPE_UINT8 dims: {crop} zero_data: true }}
    }}
  }}"""
        for batch in batches
    )


def _dims(shape: Sequence[int]) -> str:
    return "[ " + ", ".join(str(length) for length in shape) + " ]"
