"""The same content through every format that can hold it gives the same series: ids, variables, values, times and what comes
next.
"""

from __future__ import annotations

import csv
import gzip
import importlib.util
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

from jaxlv.data import hdf5
from jaxlv.data.loading import load_series
from jaxlv.errors import JaxlvError

NAN = float("nan")


@dataclass(frozen=True)
class Content:
    """Series as a user thinks of them; `times` has those of each series, missing steps left out; `later` what comes next."""

    ids: tuple[Any, ...]
    variables: tuple[str, ...]
    times: tuple[tuple[Any, ...], ...]
    values: tuple[np.ndarray, ...]  # (T, V) each, without missing steps
    later: tuple[Any, ...]  # the next two times of each series
    missing: tuple[int, ...] = ()  # steps of every series that are not there
    written: tuple[str, ...] = ()  # the variables in another order

    @property
    def columns(self) -> tuple[str, ...]:
        return self.written or self.variables

    @property
    def several(self) -> bool:
        return len(self.ids) > 1

    @property
    def dated(self) -> bool:
        return isinstance(self.times[0][0], str)

    @property
    def complete(self) -> bool:
        same = len({len(values) for values in self.values}) == 1 and len(set(self.times)) == 1
        return same and not self.missing

    @property
    def expected(self) -> list[np.ndarray]:
        """The values of each series, NaN in the steps that are missing."""
        return [np.insert(values, [step - i for i, step in enumerate(self.missing)], NAN, axis=0) for values in self.values]

    def table(self) -> pd.DataFrame:
        """A row for each step, a column for each variable."""
        frames = [
            pd.DataFrame({"site": one, "year": list(times), **dict(zip(self.variables, values.T, strict=True))})
            for one, times, values in zip(self.ids, self.times, self.values, strict=True)
        ]
        table = pd.concat(frames, ignore_index=True)
        kept = ["site", "year", *self.columns] if self.several else ["year", *self.columns]
        return table[kept].rename(columns={"year": "date"} if self.dated else {})


def drawn(steps: int, variables: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(1, 90, (steps, variables)).round(2)


def months(start: str, count: int) -> list[str]:
    return [one.strftime("%Y-%m-%d") for one in pd.date_range(start, periods=count, freq="MS")]


PELTS = drawn(21)
YEARS = tuple(range(1900, 1921))
HOLES = PELTS.copy()
HOLES[3, 1] = HOLES[7, 0] = HOLES[8, 0] = NAN
CONTENTS = {
    "years": Content((0,), ("hare", "lynx"), (YEARS,), (PELTS,), ((1921, 1922),)),
    "panel": Content(
        ("north", "east", "söder"), ("hare", "lynx"), (tuple(months("2015-11-01", 12)),) * 3,
        tuple(drawn(12, seed=i) for i in range(3)), (("2016-11-01", "2016-12-01"),) * 3,
    ),
    "ragged": Content(
        (3, 5, 9), ("hare", "lynx"), (tuple(range(1900, 1912)), tuple(range(1905, 1912)), tuple(range(1898, 1907))),
        (drawn(12), drawn(7, seed=1), drawn(9, seed=2)), ((1912, 1913), (1912, 1913), (1907, 1908)),
    ),
    "missing values": Content((0,), ("hare", "lynx"), (YEARS,), (HOLES,), ((1921, 1922),)),
    "missing steps": Content(
        (0,), ("hare", "lynx"), ((*YEARS[:5], *YEARS[6:9], *YEARS[10:]),), (np.delete(PELTS, [5, 9], axis=0),),
        ((1921, 1922),),
        missing=(5, 9),
    ),
    "three variables": Content((0,), ("grass", "vole", "weasel"), (YEARS,), (drawn(21, 3),), ((1921, 1922),)),
    "one variable": Content((0,), ("lynx",), (YEARS,), (PELTS[:, 1:],), ((1921, 1922),)),
    "several of one": Content(
        ("a", "b"), ("lynx",), (tuple(months("1999-12-01", 15)),) * 2, (drawn(15, 1), drawn(15, 1, 4)),
        (("2001-03-01", "2001-04-01"),) * 2,
    ),
    "predator first": Content((0,), ("hare", "lynx"), (YEARS,), (PELTS,), ((1921, 1922),), written=("lynx", "hare")),
}  # fmt: skip


# ------------------------------------------------------------------------------------------------------- formats


@dataclass(frozen=True)
class Found:
    """What a format gives to `load_series`, and how the content comes back from it."""

    data: Any
    content: Content
    time: Callable[[Any], Any] = lambda time: time  # a time as it comes back


Make = Callable[[Content, Path], Found | None]


def text_of(rows: Sequence[Sequence[Any]], delimiter: str = ",", comma: bool = False, quoted: bool = False) -> str:
    stream = io.StringIO()
    plain = csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL
    writer = csv.writer(stream, delimiter=delimiter, quoting=plain, lineterminator="\n")
    for row in rows:
        cells = ["" if one != one else str(one) for one in row]
        cells = [
            cell.replace(".", ",") if comma and not isinstance(one, str) else cell
            for cell, one in zip(cells, row, strict=True)
        ]
        writer.writerow(cells)
    return stream.getvalue()


def rows_of(table: pd.DataFrame) -> list[list[Any]]:
    return [list(table.columns), *table.to_numpy(object).tolist()]


def in_text(suffix: str = ".csv", encoding: str = "utf-8", above: str = "", **how: Any) -> Make:
    def make(content: Content, folder: Path) -> Found:
        path = folder / f"x{suffix}"
        path.write_bytes((above + text_of(rows_of(content.table()), **how)).encode(encoding))
        return Found(path, content)

    return make


def blanks(content: Content, folder: Path) -> Found:
    """Columns that blanks separate have a word for what is missing."""
    path = folder / "x.txt"
    path.write_text(
        "\n".join("   ".join("NA" if one != one else str(one) for one in row) for row in rows_of(content.table()))
    )
    return Found(path, content)


def with_units(content: Content) -> list[list[Any]]:
    header, *rows = rows_of(content.table())
    return [header, ["(10³)" if name in content.columns else "" for name in header], *rows]


def units(content: Content, folder: Path) -> Found:
    (folder / "x.csv").write_text(text_of(with_units(content)))
    return Found(folder / "x.csv", content)


def units_in_excel(content: Content, folder: Path) -> Found:
    pd.DataFrame(with_units(content)).to_excel(folder / "x.xlsx", index=False, header=False)
    return Found(folder / "x.xlsx", content)


def units_in_frame(content: Content, folder: Path) -> Found:
    """What pandas reads from a file with a row of units."""
    units(content, folder)
    return Found(pd.read_csv(folder / "x.csv", dtype=str), _text_ids(content), str)


def packed(content: Content, folder: Path) -> Found:
    path = folder / "x.csv.gz"
    path.write_bytes(gzip.compress(text_of(rows_of(content.table())).encode()))
    return Found(path, content)


def row_numbers(content: Content, folder: Path) -> Found:
    (folder / "x.csv").write_text(content.table().to_csv())
    return Found(folder / "x.csv", content)


def upper_case(content: Content, folder: Path) -> Found:
    content.table().rename(columns=str.upper).to_csv(folder / "x.csv", index=False)
    return Found(folder / "x.csv", replace(content, variables=tuple(name.upper() for name in content.variables)))


def shuffled(content: Content, folder: Path) -> Found:
    """The series are in the order in which they begin."""
    table = content.table()
    order = np.random.default_rng(0).permutation(len(table))
    table = table.iloc[order]
    if content.several and isinstance(content.ids[0], str):
        rank = {one: i for i, one in enumerate(dict.fromkeys(table["site"]))}
        places = sorted(range(len(content.ids)), key=lambda i: rank[content.ids[i]])
        content = replace(
            content,
            **{name: tuple(getattr(content, name)[i] for i in places) for name in ("ids", "times", "values", "later")},
        )
    table.to_csv(folder / "x.csv", index=False)
    return Found(folder / "x.csv", content)


def long_frame(content: Content) -> pd.DataFrame:
    table = content.table()
    keys = [name for name in table.columns if name not in content.variables]
    return table.melt(keys, list(content.columns), "species", "count")


def long_text(content: Content, folder: Path) -> Found:
    long_frame(content).to_csv(folder / "x.csv", index=False)
    return Found(folder / "x.csv", content)


def nixtla_frame(content: Content) -> tuple[pd.DataFrame, Content] | None:
    if len(content.variables) > 1:
        return None
    table = content.table()
    ids = list(content.ids) if content.several else ["only"]
    frame = pd.DataFrame({
        "unique_id": table["site"] if content.several else "only", "ds": table["date" if content.dated else "year"],
        "y": table[content.variables[0]],
    })  # fmt: skip
    return frame, replace(content, variables=("y",), ids=tuple(ids))


def nixtla_text(content: Content, folder: Path) -> Found | None:
    if (found := nixtla_frame(content)) is None:
        return None
    found[0].to_csv(folder / "x.csv", index=False)
    return Found(folder / "x.csv", found[1])


def parquet(content: Content, folder: Path) -> Found:
    content.table().to_parquet(folder / "x.parquet")
    return Found(folder / "x.parquet", content)


def excel(content: Content, folder: Path) -> Found:
    content.table().to_excel(folder / "x.xlsx", index=False)
    return Found(folder / "x.xlsx", content)


def stamp(time: Any) -> Any:
    return np.datetime64(time, "ns") if isinstance(time, str) else time


def dates_of(content: Content) -> pd.DataFrame:
    table = content.table()
    return table.assign(date=pd.to_datetime(table["date"])) if content.dated else table


def block(content: Content) -> np.ndarray:
    order = [content.variables.index(name) for name in content.columns]
    return np.stack(content.values)[..., order]


def hdf5_block(content: Content, folder: Path) -> Found | None:
    if not content.complete or content.dated:
        return None
    with h5py.File(folder / "x.h5", "w") as file:
        file["trajectories"] = block(content)
        file["time"] = np.array(content.times[0])
        file["trajectories"].attrs["variables"] = [name.encode() for name in content.columns]
    return Found(folder / "x.h5", content)


def hdf5_columns(content: Content, folder: Path) -> Found:
    with h5py.File(folder / "x.h5", "w") as file:
        for name, column in content.table().items():
            values = column.to_numpy()
            file.create_dataset(name, data=values, dtype=h5py.string_dtype() if values.dtype.kind not in "iuf" else None)
    return Found(folder / "x.h5", content)


def netcdf(content: Content, folder: Path) -> Found | None:
    """A matrix (time, site) for each variable, packed as integers, days since a date, and a dimension without values."""
    if not content.complete or not content.dated:
        return None
    days = (pd.to_datetime(list(content.times[0])) - pd.Timestamp("2000-01-01")).days.to_numpy()
    with h5py.File(folder / "x.nc", "w") as file:
        file.create_dataset("time", data=days.astype("f8")).attrs["units"] = b"days since 2000-01-01 00:00:00"
        file.create_dataset("site", data=[str(one).encode() for one in content.ids])
        extent = file.create_dataset("strlen", data=np.zeros(7))
        extent.attrs["NAME"] = np.bytes_("This is a netCDF dimension but not a netCDF variable         7")
        for v, name in enumerate(content.columns):
            values = np.round(block(content)[..., v].T * 100)
            whole = file.create_dataset(name, data=np.where(np.isnan(values), -1, values).astype("i4"))
            whole.attrs["scale_factor"], whole.attrs["_FillValue"] = 0.01, np.int32(-1)
    return Found(folder / "x.nc", content, stamp)


def matlab(content: Content, folder: Path) -> Found | None:
    """A file of MATLAB 7.3: a block of 512 bytes before the content, axes in the other order, columns as matrices."""
    if content.several or content.dated:
        return None
    with h5py.File(folder / "x.mat", "w", userblock_size=512) as file:
        for name, column in content.table().items():
            dataset = file.create_dataset(name, data=column.to_numpy(float)[None])
            dataset.attrs["MATLAB_class"] = np.bytes_("double")
    content_bytes = bytearray((folder / "x.mat").read_bytes())
    content_bytes[:20] = b"MATLAB 7.3 MAT-file,"
    (folder / "x.mat").write_bytes(content_bytes)
    return Found(folder / "x.mat", content)


def npz_columns(content: Content, folder: Path) -> Found:
    np.savez(folder / "x.npz", **{name: _array(column) for name, column in dates_of(content).items()})
    return Found(folder / "x.npz", content, stamp)


def _array(column: pd.Series) -> np.ndarray:
    values = column.to_numpy()
    return values.astype(str) if values.dtype.kind == "O" or str(column.dtype).startswith("str") else values


def records(content: Content) -> np.ndarray:
    columns = {str(name): _array(column) for name, column in content.table().items()}
    return np.rec.fromarrays(list(columns.values()), names=list(columns))


def fields_npy(content: Content, folder: Path) -> Found:
    np.save(folder / "x.npy", records(content))
    return Found(folder / "x.npy", content)


def fields_npz(content: Content, folder: Path) -> Found:
    np.savez_compressed(folder / "x.npz", table=records(content))
    return Found(folder / "x.npz", content)


def fields_hdf5(content: Content, folder: Path) -> Found:
    """Texts of any length, as PyTables and h5py write them, beside a group."""
    made = records(content)
    types = [(name, h5py.string_dtype() if made.dtype[name].kind == "U" else made.dtype[name]) for name in made.dtype.names]
    with h5py.File(folder / "x.h5", "w") as file:
        file.create_dataset("table", data=np.array(made.tolist(), types))
        file.create_group("about")
    return Found(folder / "x.h5", content)


def npz_block(content: Content, folder: Path) -> Found | None:
    if not content.complete:
        return None
    times = np.array(content.times[0], "M8[D]" if content.dated else None)
    np.savez(folder / "x.npz", trajectories=block(content), time=times, ids=np.array(content.ids), variables=content.columns)
    return Found(folder / "x.npz", content, stamp)


def arrays(content: Content, folder: Path) -> Found | None:
    """An array has neither names nor times nor ids, and the order of its variables counts."""
    if not content.complete or content.written:
        return None
    return Found(np.stack(content.values) if content.several else content.values[0], _bare(content))


def _bare(content: Content) -> Content:
    names = {1: ("value",), 2: ("prey", "predator")}.get(len(content.variables), ("x1", "x2", "x3"))
    lengths = [len(values) for values in content.values]
    return replace(
        content, ids=tuple(range(len(content.ids))), variables=names, times=tuple(tuple(range(n)) for n in lengths),
        later=tuple((n, n + 1) for n in lengths),
    )  # fmt: skip


def masked(content: Content, folder: Path) -> Found | None:
    found = arrays(content, folder)
    return None if found is None else replace(found, data=np.ma.masked_invalid(found.data))


def npy(content: Content, folder: Path) -> Found | None:
    if (found := arrays(content, folder)) is None:
        return None
    np.save(folder / "x.npy", found.data)
    return replace(found, data=folder / "x.npy")


def lists(content: Content, folder: Path) -> Found | None:
    if content.missing or content.written:
        return None
    return Found([values.tolist() for values in content.values], _bare(content))


def polars(content: Content, folder: Path) -> Found:
    import polars

    table = dates_of(content)
    columns = {name: column.to_list() for name, column in table.items()}
    columns = {
        name: [one.to_pydatetime() if hasattr(one, "to_pydatetime") else one for one in held]
        for name, held in columns.items()
    }
    return Found(
        polars.DataFrame({n: [None if one != one else one for one in held] for n, held in columns.items()}), content, stamp
    )


def arrow(content: Content, folder: Path) -> Found:
    import pyarrow

    return Found(pyarrow.Table.from_pandas(dates_of(content), preserve_index=False), content, stamp)


def indexed(content: Content, folder: Path) -> Found | None:
    if content.several:
        return None
    table = dates_of(content)
    return Found(table.set_index("date" if content.dated else "year"), content, stamp)


def levels(content: Content, folder: Path) -> Found:
    """An index of two levels without names, as sktime has it."""
    table = dates_of(content)
    time = "date" if content.dated else "year"
    table = table if content.several else table.assign(site="only")
    held = content if content.several else replace(content, ids=("only",))
    return Found(table.set_index(["site", time]).rename_axis([None, None]), held, stamp)


def frames(content: Content, folder: Path) -> Found:
    """A frame for each series, by its id."""
    table = dates_of(content)
    table = table if content.several else table.assign(site=0)
    each = {one: table[table["site"] == one].drop(columns="site") for one in content.ids}
    return Found(each, content, stamp)


FORMATS: dict[str, Make] = {
    "commas": in_text(), "semicolons": in_text(delimiter=";"), "tabs": in_text(".tsv", delimiter="\t"),
    "bars": in_text(".txt", delimiter="|"), "tildes": in_text(delimiter="~"), "colons": in_text(".txt", delimiter=":"),
    "control characters": in_text(".dat", delimiter="\x01"), "units": units, "units, excel": units_in_excel,
    "units, frame": units_in_frame, "blanks": blanks, "byte order mark": in_text(encoding="utf-8-sig"),
    "UTF-16, mark": in_text(encoding="utf-16"), "UTF-16 little": in_text(encoding="utf-16-le"),
    "UTF-16 big": in_text(encoding="utf-16-be"), "Windows-1252": in_text(above="# Größe\n", encoding="cp1252"),
    "decimal commas": in_text(delimiter=";", comma=True),
    "decimal commas, tabs": in_text(".dat", delimiter="\t", comma=True),
    "decimal commas, quoted": in_text(comma=True, quoted=True), "quoted": in_text(quoted=True),
    "comments": in_text(above="# pelts\n% by hand\n\n"), "titles": in_text(above="Pelts of the north\nby hand\n\n"),
    "gzip": packed, "row numbers": row_numbers, "upper case": upper_case, "shuffled": shuffled, "long": long_text,
    "Nixtla": nixtla_text, "parquet": parquet, "excel": excel, "HDF5, trajectories": hdf5_block,
    "HDF5, columns": hdf5_columns, "NetCDF": netcdf, "MATLAB": matlab, "npz, columns": npz_columns, "npz, block": npz_block,
    "npy": npy, "array": arrays, "masked array": masked, "lists": lists,
    "dict": lambda content, folder: Found({n: c.tolist() for n, c in content.table().items()}, content),
    "rows": lambda content, folder: Found(content.table().to_dict("records"), content),
    "fields": lambda content, folder: Found(content.table().to_records(index=False), content),
    "fields, npy": fields_npy, "fields, npz": fields_npz, "fields, HDF5": fields_hdf5,
    "frame": lambda content, folder: Found(dates_of(content), content, stamp),
    "frame of objects": lambda content, folder: Found(content.table().astype(object), content),
    "frame of texts": lambda content, folder: Found(content.table().astype(str), _text_ids(content), str),
    "long frame": lambda content, folder: Found(long_frame(content), content),
    "Nixtla frame": lambda content, folder: None if (f := nixtla_frame(content)) is None else Found(*f),
    "indexed by time": indexed, "two levels": levels, "frames": frames, "polars": polars, "arrow": arrow,
}  # fmt: skip
NEEDS = {"parquet": "pyarrow", "excel": "openpyxl", "units, excel": "openpyxl", "polars": "polars", "arrow": "pyarrow"}


def _text_ids(content: Content) -> Content:
    return replace(content, ids=tuple(map(str, content.ids))) if content.several else content


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """HDF5 files are read at once, not by another process first: these are sound."""
    monkeypatch.setattr(hdf5, "_survived", lambda *_: None)


@pytest.mark.parametrize("form", FORMATS)
def test_every_content_is_the_same_in_this_format(form, tmp_path):
    if form in NEEDS and importlib.util.find_spec(NEEDS[form]) is None:
        pytest.skip(f"needs {NEEDS[form]}")
    held = 0
    for name, content in CONTENTS.items():
        if form == "Windows-1252" and name == "panel":
            content = replace(content, ids=("north", "east", "süd"))
        folder = tmp_path / name
        folder.mkdir()
        if (found := FORMATS[form](content, folder)) is not None:
            assert_same(found, f"{form}, {name}")
            held += 1
    assert held >= 1


def assert_same(found: Found, told: str) -> None:
    wanted, read = found.content, load_series(found.data)
    assert list(read.ids) == list(wanted.ids), told
    assert read.variables == wanted.variables, told
    for i, values_TV in enumerate(wanted.expected):
        np.testing.assert_allclose(read.values[i], values_TV, rtol=1e-15, atol=0, err_msg=told)
        there = [step for step in range(len(values_TV)) if step not in wanted.missing]
        assert _plain(read.clock.labels(i, there)) == _plain(map(found.time, wanted.times[i])), told
        after = [len(values_TV), len(values_TV) + 1]
        assert _plain(read.clock.labels(i, after)) == _plain(map(found.time, wanted.later[i])), told
    missing = sum(int(np.isnan(values_TV).sum()) for values_TV in wanted.expected)
    assert (f"{missing} missing value" in read.gaps()) == (missing > 0), told


def _plain(times: Any) -> list[Any]:
    """Returns times as texts or numbers, whatever their type: dates to the second."""
    found = np.array(list(times))
    return found.astype("M8[s]").astype(str).tolist() if found.dtype.kind == "M" else found.tolist()


def test_formats_hold_most_contents(tmp_path):
    """So that a format cannot pass by leaving out what it should hold."""
    counts = {}
    for form, make in FORMATS.items():
        if form not in NEEDS:
            folder = tmp_path / form.replace(",", "").replace(" ", "")
            folder.mkdir()
            counts[form] = sum(make(content, folder) is not None for content in CONTENTS.values())
    few = {"Nixtla": 2, "Nixtla frame": 2, "HDF5, trajectories": 5, "NetCDF": 2, "MATLAB": 6, "npz, block": 7}
    few |= {"npy": 6, "array": 6, "masked array": 6, "lists": 7, "indexed by time": 6}
    assert counts == {form: few.get(form, len(CONTENTS)) for form in counts}


@pytest.mark.parametrize(
    ("field", "message"),
    {
        "two numbers": (("lynx", "f8", (2,)), r":lynx: wrong type; expected integers or floats"),
        "fields": (("lynx", [("a", "f8"), ("b", "f8")]), r":lynx: wrong type"),
        "complex": (("lynx", "c16"), r":lynx: wrong type"),
    }.values(),
)
def test_fields_that_are_no_numbers_are_refused_by_their_names(field, message, tmp_path):
    """The same in Python and in a file; nothing is flattened."""
    made = np.zeros(5, [("hare", "f8"), field])
    np.save(tmp_path / "x.npy", made)
    np.savez(tmp_path / "x.npz", made)
    for data in (made, tmp_path / "x.npy", tmp_path / "x.npz"):
        with pytest.raises(JaxlvError, match=message):
            load_series(data)


def test_records_are_the_only_array_of_their_file(tmp_path):
    made = records(CONTENTS["years"])
    np.savez(tmp_path / "x.npz", here=made, there=made)
    with pytest.raises(JaxlvError, match="records beside other arrays; expected one array of records; found here, there"):
        load_series(tmp_path / "x.npz")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["here"] = file["there"] = np.zeros(3, [("hare", "f8")])
        file["there2"] = np.zeros(3, [("hare", "f8")])
    with pytest.raises(JaxlvError, match="has no dataset trajectories; found here, there, there2"):
        load_series(tmp_path / "x.h5")
