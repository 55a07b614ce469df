"""What all commands share: exit codes, options, and how they print. Imports nothing but tyro, so that help is quick."""

from __future__ import annotations

import json
import sys
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import UseAppendAction, arg

from splat2d.config import Device

OK, USER_ERROR, INTERRUPTED = 0, 1, 130  # tyro exits with 2 where the command line itself cannot be understood

Count = Annotated[int | None, arg(metavar="N", help_behavior_hint="")]
Outputs = Annotated[
    tuple[Path, ...], UseAppendAction, arg(name="output", aliases=["-o"], metavar="FILE", help_behavior_hint="")
]
OnDevice = Annotated[Device, arg(help="Where to compute; auto takes a GPU if there is one it can use.")]
Json = Annotated[bool, arg(help_behavior_hint="")]
Quiet = Annotated[bool, arg(help="Show no progress.", help_behavior_hint="")]


def say(text: str) -> None:
    """One line on stderr."""
    print("splat2d:", " ".join(text.split()), file=sys.stderr)


def print_json(report: dict[str, Any]) -> None:
    print(json.dumps(_finite(report)))


def print_rows(rows: dict[str, str]) -> None:
    width = max(map(len, rows))
    for name, text in rows.items():
        print(f"{name:<{width}}  {text}")


def _finite(value: Any) -> Any:
    """JSON has no infinity: null instead."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value
