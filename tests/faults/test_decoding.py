"""Faults of decoding, case 41: whatever a model writes, each sample has a typed result, and no later value is shifted."""

from __future__ import annotations

import numpy as np
import pytest

from jaxlv.text.codec import Codec
from tests.programs import jaxlv

ALPHA = np.ones(2)
GOOD = "1.00,2.00;3.00,4.00;"
WRITTEN = {
    "words": ("Sure! Here", "end of text", 0),
    "no semicolon": ("1.00,2.00,3.00,4.00", "end of text", 0),
    "nothing": ("", "end of text", 0),
    "cut within a step": (GOOD + "5.00,", "end of text", 2),
    "one value in a step": (GOOD + "5.00;6.00,7.00;", "wrong number of values", 2),
    "three values in a step": (GOOD + "5.00,6.00,7.00;8.00,9.00;", "wrong number of values", 2),
    "two points": (GOOD + "1.2.3,4.00;5.00,6.00;", "not a number", 2),
    "other digits": (GOOD + "١٢,3.00;", "not a number", 2),
    "full-width digits": (GOOD + "１.00,2.00;", "not a number", 2),
    "a sign": (GOOD + "-1.00,2.00;", "not a number", 2),
    "a power of ten": (GOOD + "1e5,2.00;", "not a number", 2),
    "infinity": (GOOD + "inf,2.00;", "not a number", 2),
    "spaces": (GOOD + " 1.00,2.00;", "not a number", 2),
    "an underscore": (GOOD + "1_0.0,2.00;", "not a number", 2),
    "four hundred digits": (GOOD + "9" * 400 + ",2.00;", "not a number", 2),
    "a foreign token": (GOOD + "1.0?,2.00;", "not a number", 2),
    "complete": (GOOD, "complete", 2),
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_41_whatever_is_written_has_a_result(kind):
    text, stop, steps = WRITTEN[kind]
    most = 2 if stop == "complete" else 9
    found = Codec().decode(text, ALPHA, most)
    assert found.stop == stop and len(found.values_TV) == steps
    np.testing.assert_array_equal(found.values_TV, np.array([[1, 2], [3, 4]])[:steps])


def test_41_more_than_the_model_has_positions(work, tmp_path):
    outcome = jaxlv("forecast", work.run, "--horizon", 200, "--data", work.data, "--out", tmp_path / "out")
    assert outcome.code == 2 and "longer than the model's positions" in outcome.err


def test_41_samples_that_break_off_are_counted(work, tmp_path):
    """Without the grammar a random model writes no numbers: no exception, and the share of valid samples says so."""
    options = ["--data", work.data, "--series", "0,1", "--context", 8, "--horizon", 3, "--samples", 2, "--no-grammar"]
    outcome = jaxlv("forecast", work.run, *options, "--out", tmp_path / "out")
    assert outcome.code == 0 and "0% of the samples complete" in outcome.out
