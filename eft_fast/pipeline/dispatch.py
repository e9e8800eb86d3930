"""Which way people are fitted: method and mode to a ``Run``. The only place that knows them all."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Final

import torch

from eft_fast.body import load_body
from eft_fast.body.smpl import Smpl
from eft_fast.eft.batched.graph_slots import GraphSlotFitter, can_run_on_kernels
from eft_fast.eft.batched.memory import slots_that_fit
from eft_fast.eft.batched.slots import SlotFitter
from eft_fast.eft.config import DEFAULT_CONFIG, TENSOR_CORES, EftConfig
from eft_fast.eft.loop import LoopFitter
from eft_fast.eft.loss import resolve_tie
from eft_fast.eft.modes import check_mode
from eft_fast.errors import unknown_name
from eft_fast.map_fit.config import MapConfig
from eft_fast.map_fit.fitter import MapFitter
from eft_fast.map_fit.weighing import WeighedFitter
from eft_fast.models import load_regressor
from eft_fast.models.accept import accept_regressor
from eft_fast.models.base import Regressor, check_same_body
from eft_fast.models.error_covariance import find_error_covariance
from eft_fast.ops import find_device
from eft_fast.pipeline.confidence import with_confidence
from eft_fast.pipeline.fitter import GIVEN, KEYPOINT_WEIGHT, Fitter
from eft_fast.pipeline.predict import RegressorFitter, confidence_outputs
from eft_fast.pipeline.run import Run
from eft_fast.pipeline.workers import WorkerFitter, check_workers
from eft_fast.smplify.config import RECIPES, SmplifyConfig
from eft_fast.smplify.fit import SmplifyFitter

#: How a person can be fitted: fine-tuning, the direct fit under the covariance of the network's
#: errors, SMPLify by the recipe of the configuration or by name, or the regressor's answer alone.
METHODS: Final = ("eft", "map", "smplify", *RECIPES, "none")

Config = EftConfig | SmplifyConfig | MapConfig
#: People whom direct fits hand to a worker together. Few, since both sides write to one pipe: what
#: is under way must fit into its buffers.
_BUNDLE: Final = 8
#: What EFT tunes where no mode is given.
_DEFAULT_MODE: Final = "full"
#: The method that a configuration is of.
_METHOD_OF: Final = {EftConfig: "eft", MapConfig: "map", SmplifyConfig: "smplify"}


def make_run(
    regressor: Regressor | None = None,
    body: Smpl | None = None,
    *,
    method: str | None = None,
    mode: str | None = None,
    config: Config | None = None,
    device: str | torch.device | None = None,
    workers: int = 1,
    slots: int | None = None,
) -> Run:
    """Load what was not given, and choose how people are fitted; arguments as of ``fit_batch``.

    Raises:
        ValueError: If method, mode or configuration are unknown or do not go together.
        TypeError: If the configuration is of another method, or regressor or body are none.
        RuntimeError: If the program cannot have workers, see ``check_workers``.
    """
    # What the options say is refused before anything is loaded.
    check_workers(workers)
    chosen = method_of_options(method, mode=mode, config=config, slots=slots)
    if chosen is not None:
        resolve_method(chosen, mode, config)
    where = find_device("fit_batch", device)
    regressor = load_regressor() if regressor is None else accept_regressor(regressor, "fit_batch")
    chosen = chosen or default_method(regressor)
    method, mode, config = resolve_method(chosen, mode, config)
    regressor = _on_device(regressor, where)
    if body is None:
        body = load_body(device=next(regressor.parameters()).device)
    body = _accept_body(body)
    check_same_body(regressor, body.id, "fit_batch")
    fitter = make_fitter(
        regressor, body, method=method, mode=mode, config=config, workers=workers, slots=slots
    )
    precision = "fp32"
    if isinstance(config, EftConfig) and method == "eft":
        precision = config.arithmetic
    return Run(
        fitter=fitter,
        body=body,
        regressor=regressor,
        method=method,
        mode=mode,
        precision=precision,
        strict=not isinstance(config, MapConfig) and config.strict_reference,
    )


def method_of_options(
    method: str | None,
    *,
    mode: str | None = None,
    config: Config | None = None,
    slots: int | None = None,
) -> str | None:
    """The method that is named, or that the options belong to; None: ``default_method`` decides.

    A configuration belongs to its method; a mode and slots to EFT.

    Raises:
        TypeError: If no method is named and the configuration is of none.
    """
    if method is not None:
        return method
    if config is not None:
        for kind, name in _METHOD_OF.items():
            if isinstance(config, kind):
                return name
        raise TypeError(
            "fit_batch: config must be an EftConfig, a MapConfig or a SmplifyConfig, got "
            f"{type(config).__name__}"
        )
    return "eft" if mode is not None or slots is not None else None


def default_method(regressor: Regressor) -> str:
    """The method where nothing is asked for: ``map`` if the regressor's usual error is known.

    Without it ``eft``, with a warning that says so.
    """
    if find_error_covariance(regressor) is not None:
        return "map"
    warnings.warn(
        f"fit_batch: method 'map', the default, needs the error covariance of regressor "
        f"{regressor.id}, which is not known, so method 'eft' is taken; make it with `eft-fast "
        "calibrate --regressor R --out FILE` and give MapConfig(covariance=FILE), or name a method",
        stacklevel=4,
    )
    return "eft"


def resolve_method(method: str, mode: str | None, config: Config | None) -> tuple[str, str, Config]:
    """Method, mode and configuration as they are reported: recipe and prior go by their names."""
    if method not in METHODS:
        raise ValueError(unknown_name("fit_batch", "method", method, METHODS))
    if method == "map":
        return "map", _check_no_mode(method, mode, "residual"), _map_config(config)
    if not method.startswith("smplify"):
        config = config or DEFAULT_CONFIG
        if not isinstance(config, EftConfig):
            raise TypeError(
                f"fit_batch: method {method} takes an EftConfig, got {type(config).__name__}"
            )
        return method, mode or _DEFAULT_MODE, config
    config = config or SmplifyConfig()
    if not isinstance(config, SmplifyConfig):
        raise TypeError(
            f"fit_batch: method {method} takes a SmplifyConfig, got {type(config).__name__}"
        )
    _check_no_mode(method, mode, config.prior)
    if method != "smplify":
        config = replace(config, recipe=method)
    return config.recipe, config.prior, config


def _check_no_mode(method: str, mode: str | None, prior: str) -> str:
    """What the result reports as the mode of a method that tunes no weights: its prior."""
    if mode not in (None, _DEFAULT_MODE):
        options = "MapConfig" if method == "map" else "SmplifyConfig(prior=...)"
        raise ValueError(
            f"fit_batch: method {method} tunes no weights, got mode {mode!r}; "
            f"choose its options with {options}"
        )
    return prior


def _map_config(config: Config | None) -> MapConfig:
    config = config or MapConfig()
    if not isinstance(config, MapConfig):
        raise TypeError(f"fit_batch: method map takes a MapConfig, got {type(config).__name__}")
    return config


def make_fitter(
    regressor: Regressor,
    body: Smpl,
    *,
    method: str,
    mode: str,
    config: Config,
    workers: int = 1,
    slots: int | None = None,
) -> Fitter:
    """Choose the fitter; what was asked for by name is taken or refused, never replaced.

    Raises:
        ValueError: If the mode is unknown, or workers or slots make no sense together.
    """
    if workers < 1:
        raise ValueError(f"fit_batch: workers must be at least 1, got {workers}")
    device = next(regressor.parameters()).device
    if workers > 1 and device.type != "cpu":
        raise ValueError(f"fit_batch: workers are for the CPU, got device {device}; use slots")
    if not isinstance(config, EftConfig):
        return _make_direct(regressor, body, config, workers, slots)
    check_mode(regressor, mode)
    if config.precision in TENSOR_CORES and not can_run_on_kernels(regressor, mode, config):
        raise ValueError(
            f"fit_batch: precision {config.precision!r} is that of the CUDA kernels, which do not "
            f"fit {regressor.id} on {device} in mode {mode!r}; use 'fp32' or 'bf16'"
        )
    config = resolve_tie(config, regressor)
    make = partial(_make_local, regressor, body, method=method, mode=mode, config=config)
    if workers > 1:
        if slots is not None:
            raise ValueError("fit_batch: workers and slots exclude each other; give one of them")
        return WorkerFitter(
            partial(make, slots=1),
            count=workers,
            outputs={**confidence_outputs(regressor), **_weight_outputs(method, config)},
        )
    if slots is None:
        slots = _default_slots(regressor, body, mode, config, device)
    return make(slots=slots)


def _make_direct(
    regressor: Regressor,
    body: Smpl,
    config: MapConfig | SmplifyConfig,
    workers: int,
    slots: int | None,
) -> Fitter:
    """The fitter of a method that tunes no network."""
    if slots is not None:
        family = "map" if isinstance(config, MapConfig) else "smplify"
        raise ValueError(
            f"fit_batch: {family} tunes no weights and takes no slots; set "
            f"{type(config).__name__}.batch"
        )
    make: Callable[[], Fitter]
    if isinstance(config, MapConfig):
        make = partial(MapFitter, regressor, body, config=config)
    else:
        make = partial(SmplifyFitter, regressor, body, config=config)
    if workers == 1:
        return make()
    # One is made here as well: what cannot be fitted with is told before processes are started.
    return WorkerFitter(
        make, count=workers, outputs=make().outputs, bundle=min(config.batch, _BUNDLE)
    )


def make_slot_fitter(
    regressor: Regressor, body: Smpl, *, config: EftConfig, mode: str, slots: int
) -> Fitter:
    """The loop for one slot, and what shares its work for several; on a GPU our own kernels."""
    if can_run_on_kernels(regressor, mode, config):
        return GraphSlotFitter(regressor, body, config=config, mode=mode, slots=slots)
    # The loop keeps weights, not differences: a state in bfloat16 would swallow its updates.
    if slots == 1 and config.state == "fp32":
        return LoopFitter(regressor, body, config=config, mode=mode)
    return SlotFitter(regressor, body, config=config, mode=mode, slots=slots)


def _make_local(
    regressor: Regressor, body: Smpl, *, method: str, mode: str, config: EftConfig, slots: int
) -> Fitter:
    """The fitter of this process."""
    if method == "none":
        return RegressorFitter(
            regressor,
            body,
            weights=config.loss,
            threshold=config.stop_rule_of(mode).threshold,
            strict=config.strict_reference,
        )
    fitter = make_slot_fitter(regressor, body, config=config, mode=mode, slots=slots)
    if _weight_outputs(method, config):
        direct = MapConfig(
            covariance=config.covariance,
            distance=config.distance,
            keypoint_noise=config.keypoint_noise,
        )
        fitter = WeighedFitter(fitter, regressor, body, config=direct)
    return with_confidence(fitter, regressor)


def _weight_outputs(method: str, config: EftConfig) -> Mapping[str, tuple[int, ...]]:
    """The output of fits that take robust weights from the direct fit; nothing of the others."""
    is_robust = method == "eft" and config.robust and config.tie == "residual"
    return {KEYPOINT_WEIGHT: (GIVEN,)} if is_robust else {}


def _default_slots(
    regressor: Regressor, body: Smpl, mode: str, config: EftConfig, device: torch.device
) -> int:
    """One on the CPU, where company gains nothing; on a GPU as many as its free memory holds."""
    if device.type != "cuda":
        return 1
    return slots_that_fit(regressor, body, mode=mode, config=config)


def _accept_body(body: Smpl) -> Smpl:
    """The body that was given, unless it cannot be fitted with."""
    if not isinstance(body, Smpl):
        raise TypeError(
            f"fit_batch: body must be a Smpl, as load_body gives, got {type(body).__name__}; "
            "load_body takes smplx's objects"
        )
    if body.v_template.dtype != torch.float32:
        raise TypeError(
            f"fit_batch: body must be of float32, got {body.v_template.dtype}; call body.float()"
        )
    return body


def _on_device(regressor: Regressor, device: torch.device | None) -> Regressor:
    """The regressor on ``device``; the caller's own module stays where it is."""
    if device is None or next(regressor.parameters()).device == device:
        return regressor
    return copy.deepcopy(regressor).to(device)
