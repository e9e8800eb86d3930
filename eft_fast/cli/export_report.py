"""What an export and its verification found, for people."""

from __future__ import annotations

import math
from typing import Any


def report_lines(report: Any, folder: str) -> list[str]:
    """What a verification found."""
    lines = [
        f"{folder}: {'verified' if report.passed else 'does NOT pass'} on {report.provider}, "
        f"batches of {', '.join(map(str, report.batches))}"
    ]
    for name, value in report.max_difference.items():
        unit = "degrees" if name == "rotmat" else ""
        lines.append(
            f"  {name:9s} max difference {value:.2g} {unit} (at most {report.tolerance[name]:g}; "
            f"torch's own rounding {report.torch_rounding[name]:.2g})"
        )
    if report.fit_difference:
        listed = ", ".join(f"{name} {value:.2g}" for name, value in report.fit_difference.items())
        lines.append(f"  fits      in numpy differ from torch's by {listed}")
    if report.fit_model_difference:
        listed = ", ".join(
            f"{name} {value:.2g}" for name, value in report.fit_model_difference.items()
        )
        lines.append(f"  fit.onnx  differs from torch's fits by {listed}")
    if report.detector_difference:
        listed = ", ".join(
            f"{name} {value:.2g}" for name, value in report.detector_difference.items()
        )
        lines.append(f"  detector  differs from torch by {listed}")
    lines += [f"  {name:9s} {found}" for name, found in report.checks.items()]
    return lines + [f"  problem: {problem}" for problem in report.problems]


def gate_lines(report: Any) -> list[str]:
    """The table of the gate."""
    lines = [
        f"{'':24s} {'images/s':>9s} {'ratio':>6s} {'deg':>6s} {'p99':>6s} {'shift mm':>9s} "
        f"{'MPJPE mm':>9s} {'change':>7s} {'PA mm':>6s} {'change':>7s}"
    ]
    for row in report.rows:
        speed = [f"{row.images_per_second:9.2f}", f"{row.ratio:6.2f}"]
        if math.isnan(row.ratio):
            speed = [" " * 9, " " * 6]
        lines.append(
            f"{row.name:24s} {speed[0]} {speed[1]} {row.rotation_deg:6.2f} "
            f"{row.rotation_p99_deg:6.2f} {row.shift_mm:9.2f} {row.mpjpe_mm:9.1f} "
            f"{row.mpjpe_change_mm:+7.2f} {row.pa_mpjpe_mm:6.1f} {row.pa_mpjpe_change_mm:+7.2f}"
        )
    lines.append(f"{report.photos} photographed and {report.people} rendered people")
    return lines + [f"does not pass: {problem}" for problem in report.problems]
