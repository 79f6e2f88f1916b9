"""Faults of data files, cases 1 to 15: one clear line, exit status 2, and nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

from jaxlv.data import hdf5, loading
from jaxlv.data.observations import Handling
from jaxlv.errors import JaxlvError, JaxlvWarning
from jaxlv.text.codec import Codec
from tests.programs import jaxlv

VALUES = 1.0 + np.random.default_rng(0).random((4, 12, 2)).astype(np.float32)
TIME = 2.0 * np.arange(12)


def h5(values: Any = VALUES, time: Any = TIME, change: Callable[[h5py.File], None] = lambda file: None, **names: Any):
    """A writer of an HDF5 file: of these arrays, changed at the end."""

    def write(path: Path) -> None:
        with h5py.File(path, "w") as file:
            for name, array in {"trajectories": values, "time": time, **names}.items():
                if array is not None:
                    file.create_dataset(name, data=array)
            change(file)

    return write


def endless(path: Path) -> None:
    """Write an HDF5 file in whose heap of strings the HDF5 library goes round for ever."""
    h5(change=lambda file: file["trajectories"].attrs.update({"variables": ["prey", "predator"]}))(path)
    content = bytearray(path.read_bytes())
    first = content.index(b"GCOL") + 32  # behind the header of its first object
    content[first:first] = b"p".ljust(8, b"\0")
    path.write_bytes(content)


def text(content: str | bytes):
    """A writer of a file with this content."""
    return lambda path: path.write_bytes(content.encode() if isinstance(content, str) else content)


def with_value(value: float, *where: int) -> np.ndarray:
    values = VALUES.copy()
    values[where] = value
    return values


def external(file: h5py.File) -> None:
    del file["trajectories"]
    raw = Path(file.filename).with_name("raw.bin")
    raw.write_bytes(VALUES.tobytes())
    file.create_dataset("trajectories", VALUES.shape, "f4", external=[(str(raw), 0, h5py.h5f.UNLIMITED)])


def linked(file: h5py.File) -> None:
    del file["trajectories"]
    other = Path(file.filename).with_name("other.h5")
    h5()(other)
    file["trajectories"] = h5py.ExternalLink(str(other), "/trajectories")


def virtual(file: h5py.File) -> None:
    del file["trajectories"]
    other = Path(file.filename).with_name("other.h5")
    h5()(other)
    layout = h5py.VirtualLayout(VALUES.shape, "f4")
    layout[:] = h5py.VirtualSource(str(other), "trajectories", VALUES.shape)
    file.create_virtual_dataset("trajectories", layout)


def declared(file: h5py.File) -> None:
    del file["trajectories"]
    file.create_dataset("trajectories", (10**7, 10_000, 2), "f4", chunks=(1, 100, 2))


CASES: dict[str, tuple[str, Callable[[Path], Any], list[str]]] = {
    "1 missing": ("x.h5", lambda path: None, ["no such file", "expected a file of series"]),
    "1 directory": ("x.h5", Path.mkdir, ["is not a regular file"]),
    "2 empty": ("x.h5", text(""), ["expected HDF5", "an empty file"]),
    "2 CSV by the name of HDF5": ("x.h5", text("series,time,prey,predator\n"), ["expected HDF5", "found text"]),
    "2 LFS pointer": ("x.h5", text("version https://git-lfs.github.com/spec/v1\n"), ["git-LFS pointer", "git lfs pull"]),
    "2 truncated": (
        "x.h5",
        lambda path: (h5()(path), path.write_bytes(path.read_bytes()[:900])),
        ["damaged or truncated", "fetch it again"],
    ),
    "3 no trajectories": ("x.h5", h5(None, None, **{"a/values": VALUES}), ["no dataset trajectories", "found a"]),
    "4 axes turned": ("x.h5", h5(VALUES.transpose(1, 0, 2)), ["axis 1", "(series, steps, variables)", "transpose"]),
    "4 variables before steps": ("x.h5", h5(VALUES.transpose(0, 2, 1)), ["axis 1", "np.transpose"]),
    "4 one axis": ("x.h5", h5(VALUES[0, 0]), ["arrays of several lengths", "time (12,), trajectories (2,)"]),
    "5 complex": ("x.h5", h5(VALUES.astype(complex)), ["wrong type", "complex128"]),
    "5 text": ("x.h5", h5(np.full((4, 12, 2), b"1.0")), ["wrong type"]),
    "6 infinity": (
        "x.h5",
        h5(with_value(np.inf, slice(None), 5, 0)),
        ["4 infinite values", "series 0, step 5, prey", "bad_series"],
    ),
    "9 time twice": ("x.h5", h5(time=np.maximum(TIME, 4)), ["x.h5:time, row 2: two rows with one time", "4"]),
    "9 time of another length": ("x.h5", h5(time=TIME[:-1]), ["axis 1", "time", "11"]),
    "9 irregular": ("x.h5", h5(time=TIME**1.1), ["time grid is irregular", "resample"]),
    "11 no series": ("x.h5", h5(VALUES[:0]), ["no series", "one or more"]),
    "13 external storage": ("x.h5", h5(change=external), ["in external storage", "data inside the file"]),
    "13 external link": ("x.h5", h5(change=linked), ["is a soft or external link", "data inside the file"]),
    "13 virtual": ("x.h5", h5(change=virtual), ["is a virtual dataset", "data inside the file"]),
    "14 more than memory": ("x.h5", h5(change=declared), ["declares too much data", "found 16000000"]),
    "CSV without numbers": ("x.csv", text("time,prey\n0,few\n1,many\n"), ["no column of numbers to forecast", "time, prey"]),
    "CSV with words": (
        "x.csv",
        text("series,time,prey,predator\n0,0,many,1\n0,1,5,1\n0,2,5,1\n"),
        ["x.csv:2", "prey is not a number", "'many'"],
    ),
    "CSV with a row twice": (
        "x.csv",
        text("series,time,prey,predator\n0,0,1,1\n0,2,1,1\n1,0,1,1\n0,2,1,1\n"),
        ["x.csv:5: two rows with one time; found 2, as in row 2"],
    ),
    "NumPy of objects": (
        "x.npy",
        lambda path: np.save(path, np.array([[{}]], object), allow_pickle=True),
        ["wrong type", "object"],
    ),
    "CSV with an escape in a name": (
        "x.csv",
        text("series,step,time,variable,value\n0,0,0,\x1b[2J,1\n"),
        ["x.csv:2: the name of a variable has characters that do not print", r"\x1b[2J"],
    ),
    "an unknown kind": ("x.doc", text("1 2 3"), ["unknown kind of file", ".h5"]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_data_file_that_cannot_be_used(case, tmp_path):
    name, make, parts = CASES[case]
    make(tmp_path / name)
    outcome = jaxlv("forecast", "embedded", "--data", tmp_path / name, "--out", tmp_path / "out")
    assert outcome.code == 2 and outcome.err.count("\n") == 1 and not (tmp_path / "out").exists()
    for part in (f"jaxlv: {tmp_path / name}", *parts):
        assert part in outcome.err


BENIGN: dict[str, tuple[Callable[[Path], Any], np.ndarray, list[str]]] = {
    "3 another name": (h5(None, other=VALUES), VALUES, []),
    "3 no time": (h5(time=None), VALUES, []),
    "4 three variables": (h5(np.concatenate([VALUES, VALUES[..., :1]], axis=2)), VALUES[..., [0, 1, 0]], []),
    "4 two axes": (h5(VALUES[0]), VALUES[:1], []),
    "4 two axes of one variable": (h5(VALUES[..., 0]), VALUES[..., :1], []),
    "9 time falls": (h5(time=TIME[::-1]), VALUES[:, ::-1], ["steps are sorted by time"]),
}


@pytest.mark.parametrize("case", BENIGN)
def test_an_unusual_data_file_that_is_read(case, tmp_path):
    make, values, told = BENIGN[case]
    make(tmp_path / "x.h5")
    read = loading.load_series(tmp_path / "x.h5")
    np.testing.assert_array_equal(np.stack(read.values), values)
    assert list(read.notes) == told and read.gaps() == ""


def test_2_a_file_on_which_the_library_hangs(tmp_path, monkeypatch):
    endless(tmp_path / "a.h5")
    monkeypatch.setattr(hdf5, "PATIENCE", 3.0)
    with pytest.raises(JaxlvError, match=r"a\.h5: damaged: the HDF5 library .*; found no end after 3 s; fetch it again"):
        loading.load(tmp_path / "a.h5")


@pytest.mark.parametrize(("end", "found"), [("kill -SEGV $$", "SIGSEGV"), ("exit 3", "exit status 3")])
def test_2_a_file_on_which_the_library_crashes(tmp_path, monkeypatch, end, found):
    h5()(tmp_path / "a.h5")
    (tmp_path / "python").write_text(f"#!/bin/sh\n{end}\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(JaxlvError, match=rf"a\.h5: damaged: the HDF5 library .*; found {found}"):
        loading.load(tmp_path / "a.h5")


@pytest.mark.parametrize("dtype", [">f4", "f2", "i4", "u8", "f8"])
def test_5_every_real_type_is_read(tmp_path, dtype):
    values = np.round(10 * VALUES).astype(dtype)
    h5(values)(tmp_path / "x.h5")
    np.testing.assert_array_equal(loading.load(tmp_path / "x.h5").values_NTV, values.astype(float))


def test_6_bad_series_may_be_left_out(tmp_path, work):
    h5(with_value(np.nan, 2, 3, 1))(tmp_path / "x.h5")
    with pytest.warns(JaxlvWarning, match=r"x\.h5: 1 of 4 series are left out: 2 \(missing"):
        kept = loading.load(tmp_path / "x.h5", drop=True)
    assert kept.ids_N.tolist() == [0, 1, 3]
    h5(np.full_like(VALUES, np.nan))(tmp_path / "y.h5")
    with pytest.raises(
        JaxlvError, match=r"no series is left; found missing, infinite, negative or too large values in all 4"
    ):
        loading.load(tmp_path / "y.h5", drop=True)
    values = loading.load(work.data).values_NTV.copy()
    values[7, 0, 0] = np.inf
    h5(values, loading.load(work.data).time_T)(tmp_path / "z.h5")
    change = ["--set", f"data.path={tmp_path / 'z.h5'}", "--set", "train.steps=1"]
    assert jaxlv("train", work.config, *change, "--out", tmp_path / "run").code == 2
    outcome = jaxlv("train", work.config, *change, "--set", "data.bad_series=drop", "--out", tmp_path / "run")
    assert outcome.code == 0 and "note: " in outcome.err and "1 of 12 series are left out: 7" in outcome.err


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_8_a_series_without_a_scale(tmp_path, work, value):
    """Zeros have no scale; a constant that is not zero has one."""
    values = VALUES.copy()
    values[1, :, 0] = value
    h5(values)(tmp_path / "x.h5")
    options = ["--data", tmp_path / "x.h5", "--series", "1", "--context", 6, "--horizon", 2, "--samples", 1]
    outcome = jaxlv("forecast", work.run, *options, "--out", tmp_path / "out")
    assert (outcome.code == 0) == (value > 0)
    if not value:
        assert "series 1: variable 0 gives no scale; expected a positive value" in outcome.err


def test_7_negative_values_are_shifted_or_refused(tmp_path):
    h5(with_value(-0.5, 1, 2, 0))(tmp_path / "x.h5")
    with pytest.warns(JaxlvWarning, match=r"x\.h5: negative values: prey shifted above zero"):
        found = loading.load(tmp_path / "x.h5")
    least, greatest = -0.5, VALUES[1, :, 0].max()
    assert found.shift_NV[1, 0] == pytest.approx(0.5 + 0.5 * (greatest - least)) and (found.shift_NV[[0, 2, 3]] == 0).all()
    with pytest.raises(JaxlvError, match=r"1 negative values.*the first at series 1, step 2, prey"):
        loading.load(tmp_path / "x.h5", handling=Handling(negative="error"))


def test_10_a_series_on_both_sides_of_the_split(tmp_path, work):
    held = loading.load(work.data)
    values = held.values_NTV.copy()
    split = np.random.RandomState(42).permutation(len(values))
    values[split[-1]] = values[split[0]]
    h5(values, held.time_T)(tmp_path / "x.h5")
    outcome = jaxlv("train", work.config, "--set", f"data.path={tmp_path / 'x.h5'}", "--out", tmp_path / "out")
    assert outcome.code == 2 and outcome.err.count("\n") == 1 and not (tmp_path / "out").exists()
    assert "same values" in outcome.err and str(split[-1]) in outcome.err and str(split[0]) in outcome.err


def test_11_series_shorter_than_the_protocol(tmp_path, work):
    h5()(tmp_path / "x.h5")
    options = ["--data", tmp_path / "x.h5", "--series", "0", "--context", 10, "--horizon", 5, "--samples", 1]
    outcome = jaxlv("evaluate", work.run, *options, "--out", tmp_path / "out")
    assert outcome.code == 2 and "at most 12 steps; found 10 + 5" in outcome.err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("value", "message"), [(1e30, "more than 6 digits before the point"), (1e-12, "written as 0.00")])
def test_12_values_that_the_text_cannot_hold(tmp_path, work, value, message):
    """Under a rule that does not look at the series; the default rule scales them into the text."""
    h5(VALUES.astype(float) * value)(tmp_path / "x.h5")
    options = ["--data", tmp_path / "x.h5", "--series", "0", "--context", 8, "--horizon", 2, "--samples", 1]
    outcome = jaxlv("evaluate", work.base, *options, "--scale", "liu", "--unmasked-samples", 0, "--out", tmp_path / "out")
    assert outcome.code == 2 and message in outcome.err and 'codec.scale = "context"' in outcome.err
    data = loading.load(tmp_path / "x.h5")
    codec, values_TV = Codec(), data.values_NTV[0]
    written = codec.encode(values_TV, codec.fit(values_TV), where="series 0")
    assert len(written) == len("0.00,0.00;") * len(values_TV)


def test_names_mean_nothing_to_figures_pages_and_spreadsheets(tmp_path, work):
    """Names that are markup, a formula of TeX or of a spreadsheet, or read from right to left stand there as they are."""
    held, names = loading.load(work.data), ("$\\frac{<b>", "=1+שם")
    np.savez(tmp_path / "x.npz", trajectories=held.values_NTV, time=held.time_T, variables=names)
    options = ["--data", tmp_path / "x.npz", "--series", "0,1", "--context", 8, "--horizon", 2, "--samples", 2]
    outcome = jaxlv("evaluate", work.run, *options, "--unmasked-samples", 0, "--out", tmp_path / "out")
    told = f"jaxlv: note: {tmp_path / 'x.npz'}: the run was tuned on prey and predator, not on {' and '.join(names)}\n"
    assert (outcome.code, outcome.err) == (0, told)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "$\\frac{&lt;b&gt;" in page and "=1+<bdi>שם</bdi>" in page and "<b>" not in page
    cells = pd.read_csv(tmp_path / "out" / "forecast_tuned.csv")["variable"]
    assert set(cells) == {names[0], f"'{names[1]}"}
    assert set(json.loads((tmp_path / "out" / "metrics.json").read_text())["rows"][0]["per_variable"]) == set(names)


def test_15_another_file_than_that_of_the_training(tmp_path, work):
    """Resuming on it is refused; measuring on it takes the series that the run has not seen, by their values."""
    shutil.copytree(work.run, tmp_path / "run")
    held = loading.load(work.data)
    h5(1.01 * held.values_NTV, held.time_T)(tmp_path / "x.h5")
    before = work.data.read_bytes()
    try:
        shutil.copy(tmp_path / "x.h5", work.data)
        outcome = jaxlv(
            "train", work.config, "--set", "train.steps=2", "--set", "lora.rank=2", "--out", tmp_path / "run", "--resume"
        )
    finally:
        work.data.write_bytes(before)
    assert outcome.code == 2 and "the data is not what the run began with; expected sha256" in outcome.err
