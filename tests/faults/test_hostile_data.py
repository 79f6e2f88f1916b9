"""Data files that were made to harm: what reading them takes of memory, and what their names do to whatever shows them.

The limit is lowered to CAP, so that a file which would take many times as much is small, and quickly refused.
"""

from __future__ import annotations

import io
import os
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from h5py import h5pl

from jaxlv.config import read_tree
from jaxlv.data import hdf5, limits, loading, series, splits
from jaxlv.data.limits import LONGEST_NAME, MOST_VARIABLES, Room, clean_name, clean_names
from jaxlv.errors import JaxlvError
from jaxlv.tools.options import MOST_IDS, parse_ids
from tests.faults.peak import peak
from tests.faults.test_data_files import TIME, VALUES, h5, text

CAP = 1 << 24
WIDE, TIDY = "series,time,prey,predator\n", "series,step,time,variable,value\n"
Make = Callable[[Path], Any]

# ------------------------------------------------------------------------------------------------ makers of files


def header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    """The head of an npy file that declares an array."""
    tree = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(tree)) + tree


def long_header(size: int) -> bytes:
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", size) + b"{"


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npz(compression: int = zipfile.ZIP_DEFLATED, **members: Any) -> Make:
    """A writer of an archive of these members, by default good ones."""

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, content in {"trajectories": VALUES, "time": TIME, **members}.items():
                archive.writestr(f"{name}.npy", content if isinstance(content, bytes) else npy(content))

    return write


def sparse(content: bytes, size: int) -> Make:
    """A writer of a file that begins so, and goes on with zeros that take no place on the disk."""

    def write(path: Path) -> None:
        path.write_bytes(content)
        os.truncate(path, size)

    return write


def members(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(20_000):
            archive.writestr(f"{number:030}", "")


def twice(path: Path) -> None:
    npz()(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("time", npy(TIME))


def declared(*shapes: tuple[int, ...], simulation: int = 0) -> Make:
    """A writer of an HDF5 file of some kilobytes that declares trajectories, time and parameters of these shapes."""

    def write(path: Path) -> None:
        with h5py.File(path, "w") as file:
            for name, shape in zip(("trajectories", "time"), shapes, strict=True):
                file.create_dataset(name, shape, "f4", chunks=True)
            for number in range(simulation):
                file.create_dataset(f"simulation/p{number}", shapes[0][:1], "f8", chunks=True)

    return write


def chunked(path: Path) -> None:
    """Write 30 values in a chunk of 32 million."""
    with h5py.File(path, "w") as file:
        file["time"] = np.arange(5.0)
        file.create_dataset("trajectories", (3, 5, 2), "f4", maxshape=(None,) * 3, chunks=(1 << 10, 1 << 7, 1 << 8))


def inflating(path: Path) -> None:
    """Write a chunk that says 384 bytes and unpacks to 300 MB."""
    with h5py.File(path, "w") as file:
        file["time"] = TIME
        values = file.create_dataset("trajectories", VALUES.shape, "f4", chunks=VALUES.shape, compression="gzip")
        packer = zlib.compressobj(9)
        values.id.write_direct_chunk(
            (0, 0, 0), b"".join(packer.compress(bytes(1 << 20)) for _ in range(300)) + packer.flush()
        )


def repeated(path: Path) -> None:
    """Writes a hundred names, each the same text of 3 MB, which is stored once."""
    size = 3_000_000
    with h5py.File(path, "w") as file:
        file["time"] = TIME
        values = file.create_dataset("trajectories", (4, 12, 100), "f4")
        values.attrs.create("variables", ["x" * size] + ["a"] * 99, dtype=h5py.string_dtype())
    content = bytearray(path.read_bytes())
    first = content.index(struct.pack("<I", size))
    content[first : first + 1600] = content[first : first + 16] * 100
    path.write_bytes(content)


def attribute(holder: str, name: str, value: Any) -> Make:
    def change(file: h5py.File) -> None:
        file.require_group("simulation")
        file[holder].attrs[name] = value

    return h5(change=change)


def linked(path: Path) -> None:
    def change(file: h5py.File) -> None:
        own = file.create_dataset("simulation/first", data=np.ones(4))
        for number in range(200):
            file[f"simulation/{number}"] = own

    h5(change=change)(path)


def repeats(head: str, line: str, count: int) -> Make:
    return text(head + line * count)


def rows(count: int, line: Callable[[int], str], head: str = WIDE) -> Make:
    return text(head + "".join(map(line, range(count))))


# ------------------------------------------------------------------------------------------------------ memory

REFUSED: dict[str, tuple[Make, str]] = {
    "a.npz": (npz(variables=header((2,), "<U200000000")), "declares too much data"),
    "b.npz": (npz(variables=header((2,), "|S999999999")), "declares too much data"),
    "c.npz": (npz(variables=header((5_000_000,), "<U1")), "declares too much data"),
    "d.npz": (npz(variables=long_header(10_000_000) + bytes(10_000_000)), "header is too long"),
    "e.npz": (npz(trajectories=header((10, 100_000, 1)), time=header((1_200_000,))), "declares too much data"),
    "f.npz": (npz(trajectories=header((1_000_000, 2, 1), "|i1")), "declares too much data"),
    "g.npz": (npz(zipfile.ZIP_LZMA), "unknown compression"),
    "h.npz": (npz(zipfile.ZIP_BZIP2, variables=bytes(20 << 20)), "unknown compression"),
    "i.npz": (members, "list of its members is longer"),
    "j.npz": (twice, "two arrays of one name; found time"),
    "k.npz": (npz(variables=npy([["prey", "x"], ["predator", "y"]])), "must be a list; found shape (2, 2)"),
    "l.npz": (npz(variables=npy([1, 2])), "expected text; found int64"),
    "a.npy": (sparse(long_header(3 << 30), (3 << 30) + 100), "too large"),
    "b.npy": (sparse(long_header(10_000_000), 10_000_100), "header is too long"),
    "c.npy": (text(header((-1_000_000_000, 100, 2)) + bytes(800)), "a shape below zero"),
    "d.npy": (text(header((10**9, 10**9, 2))), "declares too much data"),
    "e.npy": (lambda path: path.symlink_to("/dev/zero"), "is not a regular file"),
    "a.h5": (declared((20_000, 2, 2), (2,), simulation=40), "declares too much data"),
    "b.h5": (declared((2, 500_000, 1), (1_200_000,)), "declares too much data"),
    "c.h5": (chunked, "declares too much data"),
    "d.h5": (inflating, "damaged"),
    "e.h5": (repeated, "damaged"),
    "f.h5": (linked, "too many parameters"),
    "g.h5": (attribute("trajectories", "variables", ["x"] * 500), "variables is too long"),
    "h.h5": (attribute("simulation", "seed", "x" * 20_000), "seed is not a setting"),
    "i.h5": (attribute("simulation", "seed", h5py.Empty("f4")), "seed is not a setting"),
    "a.csv": (text(WIDE + "0" * 10_000_000), "a.csv:2: the line is too long"),
    "b.csv": (repeats(WIDE, '"\n",', 100_000), "b.csv:2: quotes do not match"),
    "c.csv": (rows(200, lambda i: f"0,0,0,n{i},1\n", TIDY), "c.csv:102: too many variables"),
    "d.csv": (text(",".join(f"c{i}" for i in range(9000)) + "\n"), "d.csv:1: too many columns"),
    "e.csv": (repeats(WIDE, ",,,,x\n", 1), "e.csv:2: row and header differ in their number of cells; expected 4; found 5"),
    "f.csv": (rows(60_000, lambda i: f"{i // 2},{i % 2},1,1\n"), "declares too much data"),
    "j.csv": (repeats(WIDE, "0,0,1,1\n", CAP // 80 + 99), "declares too much data"),
    "g.csv": (sparse(WIDE.encode(), 1 << 42), "unknown binary data"),
    "h.csv": (os.mkfifo, "is not a regular file"),
    "i.csv": (repeats(WIDE + "0,0,1,2\n", " " * 1000 + "\n", 17_000), "too large"),
}
READ = """
import warnings
from jaxlv.data import loading
from jaxlv.errors import JaxlvError
import sys
warnings.simplefilter("ignore")
for path in {paths!r}:
    try:
        line = f"read {{len(loading.load(path, memory_cap={cap}, drop={drop}))}}"
    except JaxlvError as fault:
        line = str(fault)
    print(path.rpartition("/")[2], line, file=sys.stderr)
"""


@pytest.fixture(scope="module")
def read() -> Callable[..., tuple[dict[str, str], float]]:
    """Reads files in another process: what it says of each, and its peak of memory above that without files, by CAP."""
    start = peak(READ.format(paths=[], cap=CAP, drop=False)).bytes

    def read(*paths: Path, drop: bool = False) -> tuple[dict[str, str], float]:
        found = peak(READ.format(paths=list(map(str, paths)), cap=CAP, drop=drop))
        assert found.code == 0, found.stderr
        return dict(line.split(" ", 1) for line in found.stderr.splitlines()), (found.bytes - start) / CAP

    return read


@pytest.mark.parametrize("kind", ["npz", "npy", "csv", "h5"])
def test_what_is_refused_takes_little_memory(tmp_path, read, kind):
    """For the HDF5 library's own process, whose limit is on what it maps, the limit itself is the bound."""
    cases = {name: case for name, case in REFUSED.items() if name.endswith(kind)}
    for name, (make, _) in cases.items():
        make(tmp_path / name)
    said, taken = read(*(tmp_path / name for name in cases))
    assert {name: said[name] for name, (_, part) in cases.items() if part not in said[name]} == {}
    assert all(line.isprintable() and len(line) <= 800 for line in said.values())
    assert taken < (1.5 if kind != "h5" else 3 + hdf5.MEMORY / CAP)


def nearly(path: Path, bad: int = 0) -> None:
    """Writes 20 long trajectories of float64 that take nearly all the memory allowed; so many of these are NaN."""
    steps = (CAP - 20 * limits.PER_SERIES) // (8 * 41) - 10
    values = np.ones((20, steps, 2))
    values[:bad] = np.nan
    np.save(path, values) if path.suffix == ".npy" else h5(values, np.arange(float(steps)))(path)


def test_what_is_nearly_too_large_takes_three_times_its_room_at_most(tmp_path, read):
    count = CAP // (80 * 100 + limits.PER_SERIES) - 2
    rows(100 * count, lambda i: f"{i % count},{i // count},1,2\n")(tmp_path / "a.csv")
    nearly(tmp_path / "b.npy")
    nearly(tmp_path / "c.h5")
    npz(trajectories=npy(VALUES) + bytes(200 << 20))(tmp_path / "d.npz")
    nearly(tmp_path / "e.npy", bad=20)
    said, taken = read(*sorted(tmp_path.iterdir()))
    assert "more than half of its steps are missing" in said.pop("e.npy") and taken < 3
    assert said == {"a.csv": f"read {count}", "b.npy": "read 20", "c.h5": "read 20", "d.npz": "read 4"}
    nearly(tmp_path / "f.npy", bad=1)
    said, taken = read(tmp_path / "f.npy", drop=True)
    assert said == {"f.npy": "read 19"} and taken < 3.5


def test_room_counts_what_is_built_before_it_is():
    room = Room(1000, "file")
    room.array((10, 10), itemsize=1)
    room.passing(200)
    with pytest.raises(JaxlvError, match="file: declares too much data; expected at most 1000 bytes in memory; found 1040"):
        room.array((30,))
    with pytest.raises(JaxlvError, match="below zero"):
        Room(1000, "file").array((-1, 10))
    with pytest.raises(JaxlvError, match="found 1040"):
        Room(1000, "file").trajectories((2, 1, 1))


# ------------------------------------------------------------------------------------------------------- names

BAD = {
    "\x1b[31mred": r"\x1b[31mred", "\x9b0m": r"\x9b", "\x00": r"\x00", "a\nb": r"a\nb", "a\u202eb": r"\u202e",
    "\u2066x": r"\u2066", "\u200f": r"\u200f", "": "is empty", "  ": "is empty",
    "x" * (LONGEST_NAME + 1): "is too long", "x" * 1_000_000: "is too long",
}  # fmt: skip
GOOD = (
    "$\\frac{",
    "a_b^c",
    "<b>x</b>",
    "=SUM(A1)",
    "-x",
    "+1",
    "名前",
    "שם",
    "_x",
    "{}%s",
    "name",
    "'=x",
    "x" * LONGEST_NAME,
)


@pytest.mark.parametrize("name", BAD, ids=lambda name: ascii(name[:20]))
def test_a_name_that_does_not_print_is_refused(tmp_path, name):
    values = np.ones((2, 3, 2))
    npz(trajectories=npy(values), time=npy(np.arange(3)), variables=npy(["prey", name]))(tmp_path / "a.npz")
    tidy = "".join(f'{n},{t},{t},"{v}",1\n' for n in range(2) for t in range(3) for v in ("prey", name))
    (tmp_path / "a.csv").write_text(TIDY + tidy, newline="")
    for action in (
        lambda: loading.load(tmp_path / "a.npz"), lambda: loading.load(tmp_path / "a.csv"),
        lambda: series.from_arrays(values, None, ["prey", name]),
    ):  # fmt: skip
        with pytest.raises(JaxlvError) as caught:
            action()
        assert str(caught.value).isprintable() and len(str(caught.value)) <= 800
    assert BAD[name] in str(caught.value)


def h5_error(path: Path, make: Make) -> str:
    make(path)
    with pytest.raises(JaxlvError) as caught:
        hdf5._read(path, CAP)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_names_in_hdf5_are_utf8_and_print(tmp_path):
    path, broken = tmp_path / "a.h5", np.array([b"prey", b"\xff"], "S4")
    vlen = np.array([b"prey", b"\xff"], h5py.string_dtype())
    assert r"\udcff" in h5_error(path, attribute("trajectories", "variables", broken))
    assert r"\udcff" in h5_error(path, attribute("trajectories", "variables", vlen))
    assert r"\x1b" in h5_error(path, attribute("trajectories", "variables", ["prey", "\x1b[2J"]))
    assert r"\x1b" in h5_error(path, attribute("simulation", "\x1b[2J", 1))
    assert r"\x1b" in h5_error(path, attribute("simulation", "preset", "\x1b[2J"))
    assert r"\x1b" in h5_error(path, h5(change=lambda file: file.create_dataset("simulation/\x1b[2J", data=np.ones(4))))
    assert r"\x1b" in h5_error(path, h5(None, **{"\x1b[2J": VALUES}))
    attribute("trajectories", "variables", np.array(["名".encode(), b" y"], "S4"))(path)
    assert hdf5._read(path, CAP)["arrays"]["variables"].tolist() == ["名", "y"]


def test_names_are_different_and_few():
    assert clean_names([" a", "b "], "here") == ("a", "b") and clean_names("ab", "here") == ("ab",)
    assert clean_names(GOOD, "here") == GOOD and clean_name("ß".encode(), "here") == "ß"
    with pytest.raises(JaxlvError, match="here: two variables have one name; found a, variables 0 and 1"):
        clean_names(["a", " a"], "here")
    with pytest.raises(JaxlvError, match=f"too many variables; expected at most {MOST_VARIABLES}"):
        clean_names(map(str, range(1000)), "here")
    with pytest.raises(JaxlvError, match="must be a list; found shape"):
        clean_names(np.array([["a", "b"]]), "here")


def test_the_name_of_a_file_prints_too(tmp_path):
    np.save(tmp_path / "\x1b[2J.npy", VALUES)
    with pytest.raises(JaxlvError, match="name has characters that do not print"):
        loading.load(tmp_path / "\x1b[2J.npy")


# ------------------------------------------------------------------------------------------------------ code

EVIL = """
#include <stdio.h>
__attribute__((constructor)) static void run(void) { FILE *file = fopen("MARK", "w"); if (file) fclose(file); }
"""


def with_filter(path: Path, number: int) -> None:
    """Write a chunk that the HDF5 library needs the filter of this number for."""
    h5(None)(path)
    with h5py.File(path, "a") as file:
        file.create_dataset("trajectories", data=np.ones_like(VALUES), chunks=VALUES.shape, compression="lzf")
    content = path.read_bytes()
    lzf, other = struct.pack("<H", 32000), struct.pack("<H", number)
    assert content.count(lzf) == 1
    path.write_bytes(content.replace(lzf, other))


def test_no_file_makes_the_hdf5_library_load_code(tmp_path):
    """A library that leaves a mark when it is loaded is loaded by h5py alone, and by no reader of ours."""
    if not (compiler := shutil.which("cc")):
        pytest.skip("no C compiler")
    with_filter(tmp_path / "a.h5", 32999)
    (tmp_path / "evil.c").write_text(EVIL.replace("MARK", str(tmp_path / "mark")))
    (tmp_path / "plugins").mkdir()
    library = tmp_path / "plugins" / "libevil.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "evil.c"], check=True)
    environment = os.environ | {"HDF5_PLUGIN_PATH": str(tmp_path / "plugins")}
    ours = f"from jaxlv.data import loading; loading.load({str(tmp_path / 'a.h5')!r})"
    theirs = f"import h5py; h5py.File({str(tmp_path / 'a.h5')!r})['trajectories'][()]"
    for code, marked in ((ours, False), (theirs, True)):
        ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert ended.returncode == 1 and (tmp_path / "mark").exists() == marked, ended.stderr


def test_plugins_are_off_only_while_a_file_is_read(tmp_path):
    """Beside the process of its own, which has a limit, the one that asked reads the file, and may have plugins."""
    h5()(tmp_path / "a.h5")
    h5pl.append(b"/nowhere")
    paths, seen = [h5pl.get(place) for place in range(h5pl.size())], []
    hdf5._read(tmp_path / "a.h5", CAP, lambda size: seen.append(h5pl.size()))
    assert seen == [0] and [h5pl.get(place) for place in range(h5pl.size())] == paths
    h5pl.remove(len(paths) - 1)


# --------------------------------------------------------------------------------------- what a user may ask for


def test_ids_are_few_and_in_order():
    assert parse_ids("3,7-9") == [3, 7, 8, 9] and parse_ids("north,7,²") == ["north", 7, "²"]
    assert len(parse_ids(f"0-{MOST_IDS - 1}")) == MOST_IDS
    for asked in ("0-99999999999", f"0-{MOST_IDS}", "9" * 5000, "1-" + "9" * 19, "9-3", "-3", "3,", "1.5"):
        with pytest.raises(ValueError) as caught:
            parse_ids(asked)
        assert str(caught.value).isprintable() and len(str(caught.value)) < 200


def test_seeds_and_ids_that_numpy_cannot_take():
    for seed in (-1, 2**32):
        with pytest.raises(JaxlvError, match="seed of a split is out of range; expected 0 to"):
            splits.split_fraction(np.arange(10), seed=seed)
    with pytest.raises(JaxlvError, match="are not series ids"):
        series.from_arrays(np.ones((1, 3, 2)), ids=np.array([2**63], np.uint64))


def config(folder: Path, content: dict[str, str]) -> Path:
    for name, one in content.items():
        (folder / name).write_text(one)
    return folder / next(iter(content))


def test_configs_extend_each_other_twenty_times_at_most(tmp_path):
    chain = {f"{i}.toml": f'extends = "{i + 1}.toml"\n[lora]\nrank = {i}\n' for i in range(30)}
    with pytest.raises(JaxlvError, match="too many configs that extend each other; expected at most 20"):
        read_tree(config(tmp_path, chain))
    chain = {f"{i}.toml": chain[f"{i}.toml"] for i in range(19)} | {"19.toml": "[lora]\nrank = 9\nalpha = 2\n"}
    assert read_tree(config(tmp_path, chain)) == {"lora": {"rank": 0, "alpha": 2}}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("# " + "x" * (1 << 20), "too large"),
        (".".join("a" * 5000) + " = 1", "too deep"),
        ("a = " + "[" * 30 + "]" * 30, "too deep"),
        ('extends = "\\u0000"', "no such config file"),
        ('extends = "/dev/zero"', "not a regular file; found a device"),
        ("a = " + "9" * 5000, "not valid TOML"),
        ("extends = 3", "extends has the wrong type"),
    ],
)
def test_configs_that_no_hand_wrote(tmp_path, content, said):
    with pytest.raises(JaxlvError, match=said) as caught:
        read_tree(config(tmp_path, {"a.toml": content}))
    assert str(caught.value).isprintable()
