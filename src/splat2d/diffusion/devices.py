"""Which device a word stands for."""

from __future__ import annotations

import torch

from splat2d.config import Device
from splat2d.errors import InputError


def chosen(device: Device) -> torch.device:
    """auto: a GPU if torch has one. Raises InputError where cuda is asked for and there is none."""
    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise InputError("cuda: torch finds no GPU that it can use; give another device")
    return torch.device("cpu" if device == "cpu" or not there else "cuda")


def label(device: torch.device) -> str:
    """The name of a device for people."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
