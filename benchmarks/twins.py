"""The networks of `benchmarks.inputs` in PyTorch, and what PyTorch's counters say about them."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional

B, D, F, C, N = 32, 64, 128, 8, 8  # as in benchmarks.inputs
H, CI, CO, IMAGES, T, HEADS, WIDE = 16, 8, 24, 4, 32, 8, 16


class Of(nn.Module):
    """A function of arrays as a module."""

    def __init__(self, function: Callable[..., torch.Tensor]):
        super().__init__()
        self.function = function
        self.unused = nn.Parameter(torch.zeros(1))  # calflops refuses a module without parameters

    def forward(self, *arrays: torch.Tensor) -> torch.Tensor:
        """Calls the function."""
        return self.function(*arrays)


class RNN(nn.Module):
    """Five steps of two products each."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.u = (nn.Parameter(torch.ones(D, D)) for _ in range(2))

    def forward(self, xs: torch.Tensor) -> torch.Tensor:
        """Returns the last state."""
        h = torch.zeros(B, D, requires_grad=True)  # as in a scan, whose backward pass has five steps too
        for x in xs:
            h = torch.tanh(x @ self.w + h @ self.u)
        return h


class Tied(nn.Module):
    """A layer that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(D, D, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Applies the layer, tanh, and the layer again."""
        return self.layer(torch.tanh(self.layer(x)))


def checkpointed(a: torch.Tensor) -> torch.Tensor:
    """Computes two products, which the backward pass computes again, because the square needs them."""
    from torch.utils.checkpoint import checkpoint

    return checkpoint(lambda a: (torch.sin(a @ a) @ a) ** 2, a, use_reentrant=False)


def _conv(window: int = 3, out: int = CO, **options: Any) -> Callable[[], tuple[nn.Module, tuple[torch.Tensor, ...]]]:
    return lambda: (nn.Conv2d(CI, out, window, bias=False, **options), (torch.ones(IMAGES, CI, H, H),))


def _cnn() -> nn.Module:
    first = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)]
    return nn.Sequential(*first, nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 10))


def _heads(heads: int) -> torch.Tensor:
    return torch.ones(2, heads, T, WIDE)


def _sdpa(keys: int) -> Callable[[], tuple[nn.Module, tuple[torch.Tensor, ...]]]:
    attention = functools.partial(functional.scaled_dot_product_attention, enable_gqa=keys != HEADS)
    return lambda: (Of(attention), (_heads(HEADS), _heads(keys), _heads(keys)))


def _of(function: Callable[..., torch.Tensor], *sizes: tuple[int, ...], **options: Any) -> Callable[[], Any]:
    return lambda: (Of(function), tuple(torch.ones(*size, **options) for size in sizes))


TWINS: dict[str, Callable[[], tuple[nn.Module, tuple[torch.Tensor, ...]]]] = {
    "MLP": lambda: (nn.Sequential(nn.Linear(D, F), nn.ReLU(), nn.Linear(F, C)), (torch.ones(B, D),)),
    "RNN": lambda: (RNN(), (torch.ones(5, B, D),)),
    "tied": lambda: (Tied(), (torch.ones(B, D),)),
    "checkpoint": lambda: (Of(checkpointed), (torch.ones(N, N, requires_grad=True),)),
    "conv VALID": _conv(),
    "conv SAME": _conv(padding=1),
    "conv SAME, of the image too": lambda: (
        nn.Conv2d(CI, CO, 3, bias=False, padding=1),
        (torch.ones(IMAGES, CI, H, H, requires_grad=True),),
    ),
    "conv strided": _conv(stride=2),
    "conv grouped": _conv(groups=4),
    "conv depthwise": _conv(out=CI, groups=CI),
    "conv dilated": _conv(dilation=2),
    "conv 1x1": _conv(1),
    "conv transposed": lambda: (
        nn.ConvTranspose2d(CI, CO, 4, stride=2, padding=1, bias=False),
        (torch.ones(IMAGES, CI, H, H),),
    ),
    "CNN": lambda: (_cnn(), (torch.ones(2, 3, 12, 12),)),
    "GQA": _sdpa(2),
    "attention": _sdpa(HEADS),
    "batched": _of(torch.matmul, (5, B, D), (5, D, N)),
    "einsum": _of(lambda a, b, c: torch.einsum("ij,jk,kl->il", a, b, c), (B, D), (D, D), (D, N)),
    "vdot": _of(torch.dot, (D,), (D,)),
    "complex": _of(torch.matmul, (B, D), (D, D), dtype=torch.complex64),
    "stack": _of(lambda x, w: torch.stack([x, x]) @ w, (B, D), (D, D)),
    "cholesky": lambda: (Of(torch.linalg.cholesky), (torch.eye(N),)),
    "fft": _of(torch.fft.fft, (5, 16), dtype=torch.complex64),
}


Said = tuple[int, tuple[str, ...]] | None  # a figure, and its counter's reasons to doubt it; None: not asked


def flop_counter_mode(twin: str, grad: bool) -> Said:
    """Returns the FLOPs of matrix products by torch.utils.flop_counter, of the forward pass or with its gradient."""
    from torch.utils.flop_counter import FlopCounterMode

    module, arrays = TWINS[twin]()
    with FlopCounterMode(display=False) as counter:
        out = module(*arrays)
        if grad:
            (out**2).sum().backward()
    return int(counter.get_total_flops()), ()


def by_fvcore(twin: str, grad: bool) -> Said:
    """Returns twice fvcore's figure, because it counts a multiplication and an addition as one. It has no gradients."""
    from fvcore.nn import FlopCountAnalysis

    if grad:
        return None
    analysis = FlopCountAnalysis(*TWINS[twin]())
    return int(2 * analysis.total()), tuple(f"unsupported operator {name}" for name in analysis.unsupported_ops())


def by_calflops(twin: str, grad: bool) -> Said:
    """Returns the operations of the forward pass by calflops. Its gradients are only a factor, so they are not asked for."""
    from calflops import calculate_flops

    if grad:
        return None
    module, arrays = TWINS[twin]()
    found = calculate_flops(module, args=list(arrays), print_results=False, print_detailed=False, output_as_string=False)
    return int(found[0]), ()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides what these libraries print or log."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
