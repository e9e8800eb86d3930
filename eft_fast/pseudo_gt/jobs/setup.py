"""How the people of a run are fitted, as text: processes and machines make the same of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from eft_fast.api import load_body, load_regressor
from eft_fast.body.smpl import Smpl
from eft_fast.eft.config import EftConfig
from eft_fast.losses.weights import EftLossWeights
from eft_fast.map_fit.config import MapConfig
from eft_fast.models.base import Regressor
from eft_fast.models.identity import arrays_sha256
from eft_fast.pipeline.dispatch import Config, make_run
from eft_fast.pipeline.run import Run
from eft_fast.smplify.config import SmplifyConfig

_KINDS = {"eft": EftConfig, "map": MapConfig, "smplify": SmplifyConfig}


@dataclass(frozen=True)
class RunSetup:
    """Options of a run that decide what its fits are.

    Attributes:
        method: As of ``fit_batch``.
        mode: As of ``fit_batch``.
        config: Options of the method, None for its own.
        regressor: Source of the regressor, as ``load_regressor`` takes it.
        body: Source of the body, as ``load_body`` takes it.
        intrinsics: Focal length in pixels, ``diagonal``, or None.
        device: Where to compute; None: where the regressor is.
        slots: As of ``fit_batch``.
    """

    method: str
    mode: str | None = None
    config: Config | None = None
    regressor: str = "open"
    body: str = "open"
    intrinsics: float | str | None = None
    device: str | None = None
    slots: int | None = None

    def to_json(self) -> str:
        """All of it as text, for other processes."""
        values = {**vars(self), "config": None, "kind": None}
        if self.config is not None:
            values["config"] = asdict(self.config)
            values["kind"] = next(
                name for name, kind in _KINDS.items() if isinstance(self.config, kind)
            )
        return json.dumps(values)

    @classmethod
    def from_json(cls, text: str) -> RunSetup:
        """Read what ``to_json`` wrote."""
        values: dict[str, Any] = json.loads(text)
        kind = values.pop("kind")
        if kind is not None:
            config = values["config"]
            if isinstance(config.get("loss"), dict):
                config["loss"] = EftLossWeights(**config["loss"])
            values["config"] = _KINDS[kind](**{k: _as_tuple(v) for k, v in config.items()})
        return cls(**values)

    def load(self) -> tuple[Regressor, Smpl]:
        """The regressor and the body."""
        return (
            load_regressor(self.regressor, device=self.device),
            load_body(self.body, device=self.device),
        )

    def make_run(self, regressor: Regressor, body: Smpl, *, workers: int = 1) -> Run:
        """What fits people."""
        make = partial(make_run, regressor, body, method=self.method, mode=self.mode)
        return make(config=self.config, workers=workers, slots=self.slots)

    def parts(self, regressor: Regressor, body: Smpl) -> dict[str, str]:
        """What the fits depend on, by the name of the option that decides it.

        Weights, the body and an error covariance are named by what is in them: a file that has
        been replaced makes another run.
        """
        arrays = {name: getattr(body, name) for name in ("v_template", "shapedirs", "posedirs")}
        hashed = arrays_sha256({name: value.cpu().numpy() for name, value in arrays.items()})
        config = None if self.config is None else asdict(self.config)
        for name, value in (config or {}).items():
            if config is not None and isinstance(value, str) and Path(value).is_file():
                config = {**config, name: hashlib.sha256(Path(value).read_bytes()).hexdigest()}
        return {
            "method": self.method,
            "mode": str(self.mode),
            "options": json.dumps(config, sort_keys=True),
            "regressor": regressor.full_id,
            "body": f"{body.id}:{hashed[:16]}",
            "focal": str(self.intrinsics),
            "device": "cpu" if self.device is None else self.device.partition(":")[0],
            "version": _version(),
        }


def _as_tuple(value: Any) -> Any:
    """What JSON makes a list was a tuple: configurations are frozen."""
    return tuple(_as_tuple(item) for item in value) if isinstance(value, list) else value


def _version() -> str:
    try:
        return version("eft-fast")
    except PackageNotFoundError:
        return "unknown"
