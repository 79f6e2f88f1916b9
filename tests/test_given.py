"""Series as somebody gives them, made ready for a model: their order, how long a context may be, and what is left out."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from known import known

from jaxlv.config import RunConfig, WindowConfig
from jaxlv.data.loading import load_series
from jaxlv.data.observations import USUAL, Observations
from jaxlv.errors import JaxlvError
from jaxlv.forecasting import familiar
from jaxlv.forecasting.origins import Origins
from jaxlv.studies import given
from jaxlv.studies.choice import Reader

VALUES = np.arange(1.0, 11)


def of_room(positions: int) -> Any:
    return replace(known(), model=SimpleNamespace(config=SimpleNamespace(max_position_embeddings=positions)))


def named(*variables: str) -> Observations:
    """One series, of 1, 2, 3, ... and of 2, 4, 6, ..."""
    frame = pd.DataFrame({name: VALUES * place for place, name in enumerate(variables, 1)})
    return load_series(frame, columns=variables)


def test_variables_come_in_the_order_of_the_run_and_others_are_told_in_theirs():
    finished: Any = SimpleNamespace(variables=("Lynx", "Hare"))
    found = given.in_order(named("hare", "lynx"), finished)
    assert found.variables == ("lynx", "hare") and found.values[0][0].tolist() == [2, 1]
    assert found.notes == named("hare", "lynx").notes  # names that differ in case are the same
    others = given.in_order(named("vole", "owl"), finished)
    assert others.variables == ("vole", "owl") and others.values[0][0].tolist() == [1, 2]
    assert others.notes[-1] == "the run was tuned on Lynx and Hare, not on vole and owl"
    assert given.in_order(others, None) is others


def test_a_context_has_the_last_steps_before_those_that_are_held_out():
    for steps, held, expected in ((4, 3, VALUES[3:]), (4, 0, VALUES[6:]), (7, 3, VALUES), (None, 3, VALUES)):
        made = given.ready(load_series(VALUES), known(), USUAL, steps, held)
        assert made.series.values_NTV[0, :, 0].tolist() == expected.tolist()


def test_a_series_is_left_out_if_its_context_has_no_scale_whatever_comes_behind_it():
    """Zeros in the context of a, behind that of b, and at the start of c, before its last steps."""
    values = np.stack([np.r_[np.zeros(7), 1, 2, 3], np.r_[VALUES[:7], 0, 0, 0], np.r_[np.zeros(3), VALUES[:7]]])
    frames = [pd.DataFrame({"site": name, "owls": own}) for name, own in zip("abc", values, strict=True)]
    made = given.ready(load_series(pd.concat(frames)), known(), USUAL, None, 3)
    assert made.series.ids_N.tolist() == ["b", "c"] and made.series.values_NTV[0, :, 0].tolist() == values[1].tolist()
    assert [note for note in made.notes if "left out" in note] == ["series a is left out: owls is 0 throughout its context"]
    with pytest.raises(JaxlvError, match="no series can be forecast; found owls is 0"):
        given.ready(load_series(pd.concat(frames[:1])), known(), USUAL, None, 3)


def test_the_room_of_a_context_is_what_was_read_less_the_horizon():
    """A step of two variables with two decimals takes ten tokens."""
    assert given.room(of_room(205), "m", None, 2, 6) == 20 - 6
    assert given.room(of_room(205), "m", None, 1, 6) == 41 - 6 and given.room(of_room(205), "m", None, 2, 30) == 2
    assert given.room(of_room(4096), "embedded", None, 2, 0) == given.LONGEST // 10
    for length, room in ((96, given.LONGEST), (2000, 2000), (9000, 4096)):
        trained = replace(RunConfig(), windows=WindowConfig(length))
        assert given.room(of_room(4096), "r", trained, 2, 0) == room // 10


def test_windows_that_are_left_out_for_another_reason_do_not_count_as_seen():
    """Of three windows of each series, those of a have contexts of zeros; the run has seen eight steps of either."""
    values = np.stack([np.r_[np.zeros(10), 5, 5], np.arange(1.0, 13)])[..., None]
    finished: Any = SimpleNamespace(seen_steps=lambda values_TV: 9, folder="r")
    found = load_series(values)
    made = given.windows(found, known(), Origins(2, 3, 1, 6), USUAL, finished)
    assert made.windows.ids_N.tolist() == ["1 from 9", "1 from 10"]
    assert made.notes[-1] == "1 of 6 windows are left out: the run was trained on their steps"
    assert sum("is 0 throughout its context" in note for note in made.notes) == 3


def test_a_context_is_unfamiliar_above_the_limit_and_told_with_the_last_step_of_the_baselines(monkeypatch):
    """The analog and the others end at other values than they begin with."""
    monkeypatch.setattr(given, "limits_of", lambda folder: {"1": 2.0})
    monkeypatch.setattr(
        given, "BASELINES", {name: lambda c, h: np.arange(1.0, h + 1)[None, :, None] for name in given.QUICK}
    )
    series = load_series(VALUES).ready().series
    for nats, told in ((2.0, 0), (2.5, 1)):
        lines = list(given.unfamiliar(series, Reader(of_room(9), nats_N=np.array([nats])), 10, 4))
        assert len(lines) == told
    assert "2.5 nats for each written value, of its validation 99 % below 2; the baselines end at value 4 to 4" in lines[0]
    tuned = replace(of_room(9), variables={"lora": {}})
    monkeypatch.setattr(familiar, "nats_per_written_value", lambda *given: pytest.fail("of tuned models nothing is known"))
    assert not list(given.unfamiliar(series, Reader(tuned), 10, 4))
