"""The schemes of weights in few bits, by name; this module needs no JAX."""

from __future__ import annotations

from typing import Literal, get_args

Scheme = Literal["full", "int8", "nf4"]
Bits = Literal["int8", "nf4"]
SCHEMES = get_args(Scheme)
GROUP = 64  # numbers of a row that share a scale in 4 bits, at most
