"""What a table was measured on: every script here prints it first."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from splat2d import _cpu
from splat2d.config import Device
from splat2d.engine import engine

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"  # the test pictures lie beside a checkout


def describe(threads: int | None, device: Device = "cpu", version: str | None = None) -> str:
    """One line: commit (or version, where there is no repository), GPU if it computes, CPU, threads, date."""
    cores = f"{threads or os.cpu_count()} of {os.cpu_count()} threads"
    gpu = f"{engine(device).label}, " if device == "cuda" else ""
    return f"Commit {version or commit()}, {gpu}{cpu()}, {_cpu.instruction_set()}, {cores}, {datetime.now(UTC).date()}"


def commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def cpu() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
