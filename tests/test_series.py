from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from jaxlv.config import load_config, to_toml
from jaxlv.data import loading, series, splits
from jaxlv.errors import JaxlvError, JaxlvWarning
from jaxlv.runs import sources
from jaxlv.storage import foreign

TIME_T = np.linspace(0.0, 8.0, 5)


def some_values(shape: tuple[int, ...] = (3, 5, 2), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.1, 4.0, shape).astype(np.float32)


def write_h5(path: Path, values=None, time=None, **options) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("trajectories", data=some_values() if values is None else values, **options)
        file["time"] = TIME_T if time is None else time
    return path


def message(action, *arguments, **options) -> str:
    with pytest.raises(JaxlvError) as caught:
        action(*arguments, **options)
    text = str(caught.value)
    assert text and "\n" not in text
    return text


def assert_says(text: str, *parts: str) -> None:
    for part in parts:
        assert part in text, text


# Reading


def test_load_hdf5_keeps_values_times_and_hash(tmp_path):
    path = write_h5(tmp_path / "a.h5")
    loaded = loading.load(path)
    assert loaded.values_NTV.dtype == np.float64
    np.testing.assert_array_equal(loaded.values_NTV, some_values())
    np.testing.assert_array_equal(loaded.time_T, TIME_T)
    assert loaded.variables == ("prey", "predator")
    np.testing.assert_array_equal(loaded.ids_N, [0, 1, 2])
    assert loaded.source == {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def test_load_real_file(shared):
    loaded = loading.load(shared / "data" / "lotka_volterra_data.h5")
    assert loaded.values_NTV.shape == (1000, 100, 2)
    assert loaded.source["sha256"] == "adaf44d863b4ace7dc2fce1451b937e80cd0ecb243eb72250d1df3045f2b5632"
    np.testing.assert_allclose(loaded.values_NTV.mean(axis=(0, 1)), [1.6981, 0.5696], rtol=1e-4)


@pytest.mark.parametrize("dtype", [">f4", ">f8", "<f2", "<f8", "<i4", "|u1", ">i8"])
def test_every_number_type_is_read_without_loss(tmp_path, dtype):
    values = (some_values() * 20).astype(dtype)
    loaded = loading.load(write_h5(tmp_path / "a.h5", values))
    np.testing.assert_array_equal(loaded.values_NTV, values.astype(np.float64))


def test_csv_in_both_layouts_and_any_row_order(tmp_path):
    values, ids = some_values().astype(float).tolist(), [7, 2, 5]
    tidy = [
        f"{ids[n]},{t},{TIME_T[t]},{name},{values[n][t][v]}"
        for n in range(3)
        for t in range(5)
        for v, name in ((1, "predator"), (0, "prey"))
    ]
    order = np.random.default_rng(1).permutation(len(tidy))
    rows = "\n".join(["series,step,time,variable,value", *(tidy[i] for i in order)])
    (tmp_path / "tidy.csv").write_text(rows)
    wide = [f"{ids[n]},{TIME_T[t]},{values[n][t][0]},{values[n][t][1]}" for n in range(3) for t in range(5)]
    (tmp_path / "wide.csv").write_text("\n".join(["series,time,prey,predator", *wide]) + "\n")
    for name in ("tidy.csv", "wide.csv"):
        loaded = loading.load(tmp_path / name)
        assert loaded.variables == ("prey", "predator")
        np.testing.assert_array_equal(loaded.ids_N, [2, 5, 7])
        np.testing.assert_array_equal(loaded.select(ids).values_NTV, values)
        np.testing.assert_array_equal(loaded.time_T, TIME_T)


def test_prey_comes_first_whatever_stands_first_in_a_csv(tmp_path):
    (tmp_path / "a.csv").write_text(
        "series,step,time,variable,value\n0,0,0,predator,7\n0,0,0,prey,3\n0,1,1,prey,4\n0,1,1,predator,8\n"
    )
    loaded = loading.load(tmp_path / "a.csv")
    assert loaded.variables == ("prey", "predator") and loaded.values_NTV.tolist() == [[[3, 7], [4, 8]]]


def test_csv_keeps_other_variables(tmp_path):
    rows = [f"0,{t},{t},{name},{t + 1}" for t in range(3) for name in ("hare", "lynx", "owl")]
    (tmp_path / "a.csv").write_text("\n".join(["series,step,time,variable,value", *rows]))
    loaded = loading.load(tmp_path / "a.csv")
    assert loaded.variables == ("hare", "lynx", "owl") and loaded.values_NTV.shape == (1, 3, 3)


def test_numpy_files(tmp_path):
    np.save(tmp_path / "a.npy", some_values())
    np.savez_compressed(tmp_path / "b.npz", trajectories=some_values((3, 5, 1)), time=TIME_T, variables=["hare"])
    plain, named = loading.load(tmp_path / "a.npy"), loading.load(tmp_path / "b.npz")
    np.testing.assert_array_equal(plain.values_NTV, some_values())
    np.testing.assert_array_equal(plain.time_T, np.arange(5))
    np.testing.assert_array_equal(named.values_NTV, some_values((3, 5, 1)))
    assert named.variables == ("hare",)


# Writing


def test_save_and_load_give_the_same_set(tmp_path):
    original = series.from_arrays(some_values((4, 5, 3)), TIME_T, ("a", "b", "c"))
    series.save(tmp_path / "a.h5", original)
    loaded = loading.load(tmp_path / "a.h5")
    np.testing.assert_array_equal(loaded.values_NTV, original.values_NTV)
    np.testing.assert_array_equal(loaded.time_T, original.time_T)
    assert loaded.variables == original.variables
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["trajectories"].dtype == "<f4" and file["time"].dtype == "<f8"


def test_save_never_touches_what_is_there(tmp_path):
    path = tmp_path / "a.h5"
    path.write_bytes(b"precious")
    good = series.from_arrays(some_values(), TIME_T)
    assert_says(message(series.save, path, good), "a.h5", "exists already")
    assert_says(message(series.from_arrays, np.full((1, 5, 2), 1e300), TIME_T), "10 too large")  # infinite in the file
    assert path.read_bytes() == b"precious" and os.listdir(tmp_path) == ["a.h5"]
    series.save(path, good, overwrite=True)
    np.testing.assert_array_equal(loading.load(path).values_NTV, good.values_NTV)
    assert os.listdir(tmp_path) == ["a.h5"]


def test_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    path.write_bytes(b"precious")

    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fails)
    text = message(series.save, path, series.from_arrays(some_values(), TIME_T), overwrite=True)
    assert_says(text, "cannot be written", "No space left")
    assert path.read_bytes() == b"precious" and os.listdir(tmp_path) == ["a.h5"]


def test_save_refuses_bad_names(tmp_path):
    good = series.from_arrays(some_values(), TIME_T)
    assert_says(message(series.save, tmp_path / "a.csv", good), ".h5")
    assert_says(message(series.save, tmp_path / "none" / "a.h5", good), "cannot be written")


# Faults of files


def test_paths_that_are_no_files(tmp_path):
    (tmp_path / "dir.h5").mkdir()
    os.mkfifo(tmp_path / "pipe.h5")
    assert_says(message(loading.load, tmp_path / "none.h5"), "none.h5", "no such file")
    assert_says(message(loading.load, tmp_path / "dir.h5"), "is not a regular file")
    assert_says(message(loading.load, tmp_path / "pipe.h5"), "not a regular file")
    (tmp_path / "a.doc").write_text("1")
    assert_says(message(loading.load, tmp_path / "a.doc"), "unknown kind", ".h5, .hdf5, .csv, .npy, .npz", "found .doc")


def test_unreadable_file(tmp_path, monkeypatch):
    path = write_h5(tmp_path / "a.h5")

    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(foreign.os, "open", denied)
    assert_says(message(loading.load, path), "unreadable (Permission denied)")


@pytest.mark.parametrize(
    ("suffix", "content", "found"),
    [
        (".h5", b"", "an empty file"),
        (".h5", b"series,time,prey,predator\n", "expected HDF5; found text"),
        (".h5", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a git-LFS pointer"),
        (".h5", b"<!DOCTYPE html>", "HTML"),
        (".npz", b"\x89HDF\r\n\x1a\n" + bytes(600), "expected npz archive; found HDF5"),
        (".npy", b"PK\x03\x04" + bytes(9), "found zip archive"),
        (".csv", b"\x00\x01\x02", "expected text; found unknown binary data"),
        (".csv", b"gr\x00\xdfe", "unknown binary data"),
    ],
)
def test_content_that_is_not_what_the_name_says(tmp_path, suffix, content, found):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    assert_says(message(loading.load, path), str(path), found)


def test_git_lfs_pointer_gets_advice(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert_says(message(loading.load, tmp_path / "a.h5"), "git lfs pull")


@pytest.mark.parametrize("kind", ["h5", "npy", "npz"])
def test_truncated_files(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    if kind == "h5":
        write_h5(path)
    elif kind == "npy":
        np.save(path, some_values())
    else:
        np.savez(path, trajectories=some_values(), time=TIME_T)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    assert_says(message(loading.load, path), str(path), "damaged or truncated")


def test_flipped_bytes_never_raise_anything_but_one_line(tmp_path):
    good = write_h5(tmp_path / "good.h5").read_bytes()
    random, path = np.random.default_rng(0), tmp_path / "bad.h5"
    refused = 0
    for position in random.integers(len(good), size=50):
        bad = bytearray(good)
        bad[position] ^= 0xFF
        path.write_bytes(bad)
        try:
            loading.load(path)
        except JaxlvError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 2


def test_missing_keys_list_those_present(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["results/values"], file["model/values"] = some_values(), TIME_T
    np.savez(tmp_path / "b.npz", answer=42, names=["hare"])
    assert_says(message(loading.load, tmp_path / "a.h5"), "no dataset trajectories", "model, results")
    assert_says(message(loading.load, tmp_path / "b.npz"), "has no series", "names (1,)")


def test_csv_faults_name_column_or_line(tmp_path):
    path = tmp_path / "a.csv"
    tidy, wide = "series,step,time,variable,value\n", "series,time,prey,predator\n"
    cases = {
        "series,time,prey\n0,0,1\n": ("no series can be used: fewer than 2 steps (1)", "series 0 first"),
        "series,time,name\n0,0,a\n0,1,b\n": ("no column of numbers to forecast", "columns series, time, name"),
        "series,step,time,variable,statistic,value\n0,0,0,prey,mean,1\n0,0,0,prey,median,1\n": (
            "a.csv:3", "two rows with one time", "found 0, as in row 1"
        ),
        tidy: ("has no rows",),
        wide + "0,0,1,2\n0,1,x,2\n0,2,3,2\n": ("a.csv:3", "prey is not a number", "'x'"),
        wide + "0,0,1\n": ("a.csv:2", "number of cells", "expected 4; found 3"),
        wide + "# a comment\n\n0,0,1,2,3\n": ("a.csv:4", "number of cells", "expected 4; found 5"),
        wide + "0,0,1,2\n0,1,1,2\n0,1,1,2\n": ("a.csv:4", "two rows with one time", "found 1, as in row 2"),
        wide + "0,0,1,2\n,1,1,2\n": ("a.csv:3", "series is missing"),
        wide + "0,0,1,2\n0,,1,2\n": ("a.csv:3", "time is missing"),
        wide + "0,0,1,2\n0,1,1,2\n0,2.5,1,2\n0,9,1,2\n": ("time grid is irregular", "resample"),
        tidy + "0,0,0,prey,1\n0,0,0,prey,1\n": ("a.csv:3", "two rows with one time", "found 0, as in row 1"),
        wide + '0,0,"1,2\n': ("a.csv:2", "quotes do not match"),
    }  # fmt: skip
    for content, parts in cases.items():
        path.write_text(content)
        assert_says(message(loading.load, path), *parts)


def test_series_of_other_lengths_and_missing_steps_are_read_and_told(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("series,time,prey,predator\n0,0,1,2\n0,1,3,4\n1,0,5,6\n1,3,8,9\n2,7,1,1\n")
    with pytest.warns(JaxlvWarning) as told:
        loaded = loading.load(path)
    assert [str(one.message).removeprefix(f"{path}: ") for one in told] == [
        "4 missing values (2 whole steps), the first series 1, time 1, prey",
        "missing values: interpolated",
        "series 2 is left out: fewer than 2 steps (1)",
    ]
    assert loaded.ids_N.tolist() == [0, 1] and loaded.first_N.tolist() == [2, 0]
    np.testing.assert_allclose(loaded.each[1], [[5, 6], [6, 7], [7, 8], [8, 9]])
    assert loaded.each[0].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("shape", "steps", "parts"),
    [
        (
            (5, 30, 2),
            5,
            ("axis 1", "steps, has length 30", "np.transpose(trajectories, (1, 0, 2)) would fit"),
        ),
        ((30, 2, 5), 5, ("axis 1", "np.transpose(trajectories, (0, 2, 1)) would fit")),
        ((30, 5), 6, ("axis 1", "steps, has length 30", "expected 6", "(1, 30, 5)")),
        ((30, 5, 2), 4, ("axis 1", "length 5", "expected 4", "time")),
        ((0, 5, 2), 5, ("no series",)),
        ((3, 1, 2), 1, ("no series", "two or more steps")),
    ],
)
def test_wrong_shapes_name_the_axis(tmp_path, shape, steps, parts):
    path = write_h5(tmp_path / "a.h5", np.ones(shape), np.arange(float(steps)))
    assert_says(message(loading.load, path), str(path), *parts)


def test_wrong_axis_order_is_seen_without_times(tmp_path):
    np.save(tmp_path / "a.npy", some_values((3, 2, 50)))
    assert_says(message(loading.load, tmp_path / "a.npy"), "axis 2", "np.transpose(trajectories, (0, 2, 1))")


def test_wrong_types(tmp_path):
    for name, values in {
        "complex": np.ones((3, 5, 2), complex),
        "string": np.full((3, 5, 2), b"1.0"),
        "bool": np.ones((3, 5, 2), bool),
    }.items():
        assert_says(message(loading.load, write_h5(tmp_path / f"{name}.h5", values)), "trajectories", "wrong type")
    with h5py.File(tmp_path / "object.h5", "w") as file:
        file.create_dataset("trajectories", shape=(3, 5, 2), dtype=h5py.string_dtype())
        file["time"] = TIME_T
    assert_says(message(loading.load, tmp_path / "object.h5"), "wrong type", "object")
    np.save(tmp_path / "object.npy", np.full((3, 5, 2), None))
    assert_says(message(loading.load, tmp_path / "object.npy"), "wrong type", "object")
    huge = np.full((3, 5, 2), 2**53 + 1)
    assert_says(message(loading.load, write_h5(tmp_path / "huge.h5", huge)), "integers too large", "2**53")


@pytest.mark.parametrize(("bad", "name"), [(np.inf, "infinite"), (-np.inf, "infinite"), (1e39, "too large")])
def test_bad_values_are_counted_and_placed(tmp_path, bad, name):
    values = some_values().astype(float)
    values[1, 3, 1] = values[2, 0, 0] = bad
    text = message(loading.load, write_h5(tmp_path / "a.h5", values))
    assert_says(text, f"2 {name} values", f"found {bad:g} first, at series 1, step 3, predator")


def test_missing_values_are_interpolated_and_negative_ones_shifted_and_both_told(tmp_path):
    values = some_values().astype(float)
    values[1, 3, 1], values[2, 0, 0], values[2, 4, 1] = np.nan, np.nan, -0.25
    with pytest.warns(JaxlvWarning) as told:
        loaded = loading.load(write_h5(tmp_path / "a.h5", values))
    words = "\n".join(str(one.message) for one in told)
    assert "2 missing values, the first series 1, time 6, predator" in words and "missing values: interpolated" in words
    assert "1 of them before the first or behind the last known value" in words and "predator shifted above zero" in words
    raw_NTV = loaded.values_NTV - loaded.shift_NV[:, None]
    values[1, 3, 1], values[2, 0, 0] = (values[1, 2, 1] + values[1, 4, 1]) / 2, values[2, 1, 0]
    np.testing.assert_allclose(raw_NTV, values, rtol=1e-12)
    assert (loaded.values_NTV > 0).all() and loaded.shift_NV.any(axis=1).tolist() == [False, False, True]


def test_zeros_are_values():
    assert (series.from_arrays(np.zeros((2, 5, 2))).values_NTV == 0).all()


@pytest.mark.parametrize(
    ("time", "parts"),
    [
        ([0.0, 1, 2, 2, 3], ("does not increase", "from index 2")),
        ([0.0, 1, 2, np.nan, 4], ("not finite", "index 3")),
        ([0.0, 1, 2, 3, 4.1], ("irregular", "mean 1.025", "0.001")),
        ([*range(2000), 1999.1], ("irregular", "found 1 others, the first 0.1 after index 1999")),
    ],
)
def test_bad_times(time, parts):
    assert_says(message(series.from_arrays, some_values((3, len(time), 2)), time), "time", *parts)


def test_times_may_be_rounded():
    series.from_arrays(some_values((1, 100, 2)), np.linspace(0, 200, 100).astype(np.float32))
    series.from_arrays(some_values((1, 100, 2)), np.linspace(0, 200, 100).round(3))


def test_data_outside_the_file_are_refused(tmp_path):
    outside = write_h5(tmp_path / "outside.h5")
    (tmp_path / "raw").write_bytes(bytes(120))

    def build(name: str, make) -> Path:
        path = tmp_path / name
        with h5py.File(path, "w") as file:
            file["time"] = TIME_T
            make(file)
        return path

    def virtual(file):
        layout = h5py.VirtualLayout((3, 5, 2), np.float32)
        layout[:] = h5py.VirtualSource(str(outside), "trajectories", (3, 5, 2))
        file.create_virtual_dataset("trajectories", layout)

    def simulation(file):
        file["trajectories"] = some_values()
        file["simulation"] = h5py.ExternalLink(str(outside), "/")

    makers = {
        "external link": lambda f: f.__setitem__("trajectories", h5py.ExternalLink(str(outside), "trajectories")),
        "or external link": lambda f: f.__setitem__("trajectories", h5py.ExternalLink("none.h5", "x")),
        "soft or external link": lambda f: f.__setitem__("trajectories", h5py.SoftLink("/time")),
        "external storage": lambda f: f.create_dataset(
            "trajectories", (3, 5, 2), "f4", external=[(str(tmp_path / "raw"), 0, 120)]
        ),
        "virtual dataset": virtual,
        "simulation": simulation,
        "is a group": lambda f: f.create_group("trajectories"),
    }
    for number, (part, make) in enumerate(makers.items()):
        assert_says(message(loading.load, build(f"{number}.h5", make)), part)


def test_declared_size_is_checked_before_reading(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("trajectories", (10**9, 100, 2), "f4", chunks=(100, 100, 2), compression="gzip")
        file["time"] = np.linspace(0, 200, 100)
    text = message(loading.load, tmp_path / "a.h5")
    assert_says(text, "declares too much data", "1073741824", "found 1600000000800")
    with h5py.File(tmp_path / "chunk.h5", "w") as file:
        file.create_dataset("trajectories", (3, 5, 2), "f4", maxshape=(None,) * 3, chunks=(2**15, 2**7, 2**7))
        file["time"] = TIME_T
    assert_says(message(loading.load, tmp_path / "chunk.h5"), "declares too much data")
    header = (
        b"\x93NUMPY\x01\x00v\x00"
        + repr({"descr": "<f4", "fortran_order": False, "shape": (10**9, 100, 2)}).encode().ljust(117)
        + b"\n"
    )
    (tmp_path / "a.npy").write_bytes(header)
    assert_says(message(loading.load, tmp_path / "a.npy"), "declares too much data")
    np.savez_compressed(tmp_path / "a.npz", trajectories=np.ones((1000, 100, 2)), time=TIME_T)
    assert_says(message(loading.load, tmp_path / "a.npz", memory_cap=10**6), "declares too much data", "1600000")
    (tmp_path / "a.csv").write_text("series,time,prey,predator\n")
    assert_says(message(loading.load, tmp_path / "a.csv", memory_cap=10), "too large")


# Selection and splits


def test_select_keeps_order_and_names_unknown_ids():
    full = series.from_arrays(some_values((6, 5, 2)))
    part = full.select([4, 1])
    np.testing.assert_array_equal(part.values_NTV, full.values_NTV[[4, 1]])
    np.testing.assert_array_equal(part.select([1]).values_NTV, full.values_NTV[[1]])
    assert_says(message(full.select, [1, 9, 8]), "unknown series", "9, 8")
    assert_says(message(full.select, []), "wrong choice", "none")
    assert_says(message(full.select, [1, 1]), "each once")
    assert_says(message(full.select, [0.5]), "whole numbers")


def test_fraction_split_is_the_one_reported_by_xu():
    split = splits.split_fraction(np.arange(1000))
    order = np.random.RandomState(42).permutation(1000)
    np.testing.assert_array_equal(split.train, order[:700])
    np.testing.assert_array_equal(split.validation, order[700:850])
    np.testing.assert_array_equal(split.test, order[850:])


def test_shares_that_are_no_whole_numbers_of_series_are_rounded():
    """With seven series, 4.9 and 5.95 are before the cuts: 5 and 6. A fifth of twelve, 2.4, is 3 series for Liu, as in
    scikit-learn.
    """
    assert [len(ids) for ids in splits.split_fraction(np.arange(7)).parts().values()] == [5, 1, 1]
    assert [len(ids) for ids in splits.REPORTED_SPLITS["liu"](np.arange(13)).parts().values()] == [9, 3, 1]
    assert [len(ids) for ids in splits.REPORTED_SPLITS["rai"](np.arange(18)).parts().values()] == [13, 3, 2]  # 12.6, 16.2


def test_splits_hold_every_id_once():
    ids, labels = np.arange(100, 337), np.arange(237) % 5
    for split in (
        splits.split_fraction(ids, (0.5, 0.2, 0.3), seed=3),
        splits.split_stratified(ids, labels, (0.5, 0.2, 0.3), seed=3),
    ):
        np.testing.assert_array_equal(np.sort(np.concatenate(list(split.parts().values()))), ids)


def test_stratified_parts_hold_labels_in_proportion():
    labels = np.repeat(["a", "b", "c"], [600, 90, 7])
    split = splits.split_stratified(np.arange(697), labels, (0.7, 0.15, 0.15), seed=1)
    for ids, fraction in zip(split.parts().values(), (0.7, 0.15, 0.15), strict=True):
        for label in "abc":
            assert abs((labels[ids] == label).sum() - fraction * (labels == label).sum()) < 1 + 1e-9


def test_split_faults():
    ids = np.arange(10)
    assert_says(message(splits.split_fraction, ids, (0.7, 0.2, 0.2)), "add up to 1")
    assert_says(message(splits.split_fraction, ids[:2]), "no series left for")
    assert_says(message(splits.split_stratified, ids, ["a"]), "one label per series")
    assert_says(message(splits.split_ids, ids, [0, 1], [2], [1]), "series twice", "found 1")
    assert_says(message(splits.split_ids, ids, [0, 1], [2], [11, 12]), "not in the data", "11, 12")


def test_a_split_has_a_seed_of_32_bits():
    for seed in (0, 2**32 - 1):
        assert len(splits.split_fraction(np.arange(10), seed=seed).train) == 7
    for seed in (-1, 2**32):
        assert_says(message(splits.split_fraction, np.arange(10), seed=seed), "seed of a split is out of range", str(seed))


def test_a_split_names_series_by_text_or_number(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text('[data]\ntrain_ids = ["south", 7]\nvalidation_ids = []\ntest_ids = ["north"]\n')
    config = load_config(path)
    assert load_config(_written(tmp_path / "b.toml", to_toml(config))) == config
    named = series.from_arrays(some_values((4, 5, 2)), ids=["north", "south", "7", "east"])
    parts = sources.split_series(config, named).parts()
    assert {name: ids.tolist() for name, ids in parts.items()} == {
        "train": ["south", "7"],
        "validation": [],
        "test": ["north"],
    }
    assert [len(named.select(ids)) for ids in parts.values() if len(ids)] == [2, 1]
    numbered = series.from_arrays(some_values((4, 5, 2)))
    assert_says(message(sources.split_series, config, numbered), "data.train_ids, data.test_ids", "not in the data", "south")
    changed = load_config(path, ["data.train_ids=['west']", "data.test_ids=['north','north']"])
    assert_says(message(sources.split_series, changed, named), "not in the data", "west")


def _written(path, text):
    path.write_text(text)
    return path


def test_duplicates_across_parts_are_found():
    values = some_values((6, 5, 2))
    values[5] = values[0]
    duplicated = series.from_arrays(values)
    splits.check_disjoint(duplicated, splits.split_ids(np.arange(6), [0, 5], [1, 2], [3, 4]))
    text = message(splits.check_disjoint, duplicated, splits.split_ids(np.arange(6), [0, 1], [2], [5]))
    assert_says(text, "series 5 of test", "series 0 of train")
    values[5, 0, 0], values[0, 0, 0] = 0.0, -0.0
    signed = replace(duplicated, values_NTV=values)  # as arithmetic leaves them; readers remove the sign
    assert_says(message(splits.check_disjoint, signed, splits.split_ids(np.arange(6), [0], [1], [5])), "series 5 of test")
    overlapping = splits.Split(np.array([0]), np.array([1]), np.array([0]))
    assert_says(message(splits.check_disjoint, duplicated, overlapping), "series twice")


def test_real_series_are_all_different(shared):
    real = loading.load(shared / "data" / "lotka_volterra_data.h5")
    splits.check_disjoint(real, splits.split_fraction(real.ids_N))


def test_regimes_of_made_up_series():
    t = np.arange(100.0)
    swings, rest = 2 + np.sin(t / 3), np.full(100, 2.0)
    rising, dying = 1 + t / 100, 2 * np.exp(-t / 5)
    first = {"oscillatory": swings, "equilibrium": rest, "transient": rising, "collapse": rest}
    second = {
        "oscillatory": swings,
        "equilibrium": 2 + np.exp(-t / 4),
        "transient": rising,
        "collapse": dying,
    }
    values = np.stack([np.stack([first[name], second[name]], axis=1) for name in first])
    assert list(series.regimes(series.from_arrays(values))) == list(first)
    assert_says(message(series.regimes, series.from_arrays(values[:, :10])), "20 steps")


def test_share_of_real_series_at_rest(shared):
    labels = series.regimes(loading.load(shared / "data" / "lotka_volterra_data.h5"))
    assert (labels == "equilibrium").mean() == pytest.approx(0.083, abs=5e-4)


def test_packed_values_are_unpacked_by_scale_and_offset(tmp_path):
    packed = np.arange(20, dtype=np.int16).reshape(2, 5, 2)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        held = file.create_dataset("trajectories", data=packed)
        held.attrs.update({"scale_factor": 0.5, "add_offset": 10.0, "missing_value": np.int16(7)})
        file["time"] = np.arange(5.0)
    found = loading.load_series(tmp_path / "a.h5")
    expected = np.where(packed == 7, np.nan, 0.5 * packed + 10)
    np.testing.assert_array_equal(np.stack(found.values), expected)
