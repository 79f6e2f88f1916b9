"""Convolutions and pools: how many taps of a window lie on data, not on padding or the zeros of a dilation."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxlv.flops.counting.operations import PRODUCT, SHEET_PRODUCT, Tally


class Window(NamedTuple):
    """One dimension: of the input, of the output, and of the window that slides over it."""

    size: int
    out: int
    taps: int
    stride: int = 1
    padding: int = 0  # in front; negative if the input is cut there
    base: int = 1  # dilation of the input
    dilation: int = 1  # of the window


@functools.lru_cache(maxsize=4096)
def valid(window: Window) -> tuple[int, int]:
    """Returns (taps on data summed over all outputs, outputs with at least one such tap)."""
    starts = np.arange(window.out, dtype=np.int64) * window.stride - window.padding
    last, taps, touched = (window.size - 1) * window.base, 0, np.zeros(window.out, bool)
    for tap in range(window.taps):
        at = starts + tap * window.dilation
        on_data = (at >= 0) & (at <= last) & (at % window.base == 0)
        taps += int(on_data.sum())
        touched |= on_data
    return taps, int(touched.sum())


def over(windows: Sequence[Window]) -> tuple[int, int]:
    """Returns what `valid` does, over several dimensions."""
    taps = touched = 1
    for window in windows:
        one, some = valid(window)
        taps, touched = taps * one, touched * some
    return taps, touched


def convolution(lhs: Sequence[int], rhs: Sequence[int], out: Sequence[int], params: dict) -> Tally:
    """Returns the tally of a `conv_general_dilated` from shapes: two FLOPs for each tap on data, each feature of the
    kernel's input and each of the output. Padding and the zeros that a dilation puts between elements are not multiplied.
    """
    (_, _, *at_lhs), (_, in_features, *at_rhs), (batch, features, *at_out) = params["dimension_numbers"]
    n = len(at_lhs)
    ones = (1,) * n
    windows = [
        Window(lhs[i], out[k], rhs[j], stride, low, base, dilation)
        for i, j, k, stride, (low, _), base, dilation in zip(
            at_lhs, at_rhs, at_out, params["window_strides"], params["padding"], params.get("lhs_dilation") or ones,
            params.get("rhs_dilation") or ones, strict=True,
        )
    ]  # fmt: skip
    taps, touched = over(windows)
    flops = 2 * out[batch] * out[features] * rhs[in_features] * taps
    return Tally({PRODUCT: flops, SHEET_PRODUCT: flops - out[batch] * out[features] * touched * (rhs[in_features] > 0)})


def combinations(shape: Sequence[int], out: Sequence[int], params: dict) -> int:
    """Returns how often a reduction over windows combines two elements: for each output, one less than its taps on data."""
    n = len(shape)
    ones = (1,) * n
    taps, touched = over(
        [
            Window(*one)
            for one in zip(
                shape, out, params["window_dimensions"], params["window_strides"], (low for low, _ in params["padding"]),
                params.get("base_dilation") or ones, params.get("window_dilation") or ones, strict=True,
            )
        ]
    )  # fmt: skip
    return taps - touched
