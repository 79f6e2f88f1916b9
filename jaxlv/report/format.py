"""How numbers and settings become text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from jaxlv.results.quantities import Form, Quantity

MISSING = "–"
LONG = 10**9  # from which on a whole number is written as others are


def number(value: float | None, of_one: bool = False) -> str:
    """Writes `value` with 3 digits; MISSING for None and NaN. With `of_one`, less than 1 is never rounded up to it."""
    if of_one and value is not None and 0.995 <= value < 1:
        return f"{value:.{math.ceil(-math.log10(1 - value))}f}"
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    rounded = float(f"{value:.2e}")
    if rounded and not 1e-3 <= abs(rounded) < 1e5:
        mantissa, exponent = f"{rounded:.2e}".split("e")
        text = f"{mantissa}e{int(exponent)}"
    else:
        text = f"{rounded:.{max(0, 2 - math.floor(math.log10(abs(rounded)))) if rounded else 0}f}"
    return text.replace("-", "−")


def percent(share: float | None) -> str:
    """Writes `share` in percent with 3 significant digits, never rounded up to 100."""
    if share is None or math.isnan(share):
        return MISSING
    return number(100 * share) if share >= 1 or 100 * share < 99.95 else "99.9"


def count(value: float | None) -> str:
    """Writes a whole number with commas between thousands."""
    if value is None or math.isnan(value):
        return MISSING
    return f"{value:,.0f}" if abs(value) < LONG else number(value)


def duration(seconds: float) -> str:
    """Writes a time in words: seconds, minutes, or hours and minutes."""
    if seconds < 60:
        return f"{number(seconds)} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{int(seconds) // 60} min {int(seconds) % 60} s"
    return f"{minutes // 60} h {minutes % 60} min"


def plain(value: Any) -> str:
    """Writes a setting as text: yes or no, lists with commas, floats without trailing zeros."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}" if math.isfinite(value) else MISSING
    if isinstance(value, (list, tuple)):
        return ", ".join(map(plain, value)) or MISSING
    return MISSING if value is None or value == "" else str(value)


def shortened(value: Any) -> str:
    """Writes a setting as text: a long list by its length and ends."""
    if isinstance(value, (list, tuple)) and len(value) > 12:
        return f"{len(value)}: {plain(value[:4])}, …, {plain(value[-1])}"
    return plain(value)


WRITTEN = {
    "number": number,
    "of one": lambda value: number(value, of_one=True),
    "share": percent,
    "count": count,
    "whole": lambda value: f"{value:,}",
    "change": lambda value: f"{value:+,}",
    "fine": lambda value: f"{value:.6f}",
    "precise": lambda value: f"{value:.6g}",
    "signed": lambda value: ("+" if value > 0 else "") + number(value),
}
"""How a number is written, by the form of its quantity."""


def is_number(value: Any) -> bool:
    """Whether a value is a number, and none that is a name or a switch."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def text(value: Any, form: Form = "number") -> str:
    """Writes a value in the form of its quantity; MISSING for None and NaN."""
    if is_number(value) and form in WRITTEN:
        return WRITTEN[form](value) if value == value else MISSING
    if form == "interval" and value is not None:
        return " – ".join(map(number, value))
    return plain(value)


def align(texts: Sequence[str], digit: str = " ", point: str = " ") -> list[str]:
    """Pads `texts` so that their decimal points are aligned; `digit` and `point` are spaces of those widths."""
    parts = [text.partition(".") for text in texts]
    before = max((len(whole) for whole, _, _ in parts), default=0)
    after = max((len(fraction) for _, _, fraction in parts), default=0)
    gap = point if any(dot for _, dot, _ in parts) else ""
    return [whole.rjust(before, digit) + (dot or gap) + fraction.ljust(after, digit) for whole, dot, fraction in parts]


def column(quantity: Quantity, values: Sequence[Any], digit: str = " ", point: str = " ") -> list[str]:
    """Writes the values of a column, their decimal points aligned if all are numbers."""
    held = [value for value in values if value is not None]
    if quantity.form == "interval":
        low, high = (align([number(v[side] if v else None) for v in values], digit, point) for side in (0, 1))
        return [f"{a.strip()} – {b.lstrip()}" if v else MISSING for a, b, v in zip(low, high, values, strict=True)]
    texts = [text(value, quantity.form) for value in values]
    return align(texts, digit, point) if quantity.form != "words" and all(map(is_number, held)) else texts
