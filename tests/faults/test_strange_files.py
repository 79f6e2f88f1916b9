"""Files as people have them, which nobody listed: each gives the right series, or one line that says what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

from jaxlv.data.loading import load_series
from jaxlv.errors import JaxlvError

NAN = float("nan")
HARES, LYNXES = [30, 47.2, 70.2], [4, 6.1, 9.8]
BOTH = np.array([HARES, LYNXES]).T
ROWS = "1900,30,4\n1901,47.2,6.1\n1902,70.2,9.8\n"


class Read(NamedTuple):
    """What a file holds: names of variables, values of the first series, ids, the next time, and a note."""

    content: str | bytes
    variables: str = "hare|lynx"
    values: Any = BOTH
    ids: Sequence[Any] = (0,)
    later: Any = 1903
    note: str = ""
    suffix: str = ".csv"


def lines(*rows: Any) -> str:
    return "\n".join(map(str, rows)) + "\n"


def of_years(header: str, *cells: str) -> str:
    """Three years from 1900 with the same cells behind them, unless these are given year by year."""
    return lines(header, *(f"{1900 + i},{cell}" for i, cell in enumerate(cells)))


def dated(times: Sequence[str], name: str = "date") -> str:
    return lines(f"{name},n", *(f'"{time}",{i}' for i, time in enumerate(times)))


def days(form: str, span: str = "D", count: int = 20) -> Read:
    """Dates in a national form, from 25 January 2015 on, which is no month."""
    every = [one.strftime(form) for one in pd.date_range("2015-01-25", periods=count + 1, freq=span)]
    return Read(dated(every[:count]), "n", np.arange(count)[:, None], later=every[count])


def months(first: str, count: int = 15) -> pd.DatetimeIndex:
    return pd.date_range(first, periods=count, freq="MS")


def counted(count: int) -> np.ndarray:
    return np.arange(float(count))[:, None]


def panel(header: str, *keys: str) -> str:
    return lines(header, *(f"{key},{1900 + t},{10 * i + t}" for i, key in enumerate(keys) for t in range(3)))


TENS = counted(3)
READ: dict[str, Read] = {
    # what R, Excel and others write
    "R write.csv": Read(
        lines('"","year","hare","lynx"', *(f'"{i + 1}",{r}' for i, r in enumerate(ROWS.split()))), note="row numbers"
    ),
    "R write.csv2": Read(
        '"";"year";"hare"\n"1";1900;30\n"2";1901;47,2\n"3";1902;70,2\n', "hare", BOTH[:, :1], note="(row numbers) is ignored"
    ),
    "R write.table": Read(
        '"year" "hare"\n"1" 1900 30\n"2" 1901 47.2\n"3" 1902 70.2\n',
        "hare",
        BOTH[:, :1],
        suffix=".txt",
        note="(row numbers) is ignored",
    ),
    "R, names of rows": Read(
        '"year" "hare"\n"a" 1900 30\n"b" 1901 47.2\n"c" 1902 70.2\n',
        "hare",
        BOTH[:, :1],
        suffix=".txt",
        note="column without a name ignored",
    ),
    "NumPy savetxt": Read("# year hare lynx\n" + ROWS.replace(",", " "), note="header is the comment", suffix=".txt"),
    "a header behind %": Read("% made by hand\n%year,hare,lynx\n" + ROWS, note="header is the comment"),
    "titles of Excel": Read(
        "Pelts of the Company,,\n,,\nsource: MacLulich,,\nyear,hare,lynx\n" + ROWS, note="2 lines above the header"
    ),
    "titles without cells": Read(
        "Pelts of the Company\nby hand\n\nyear,hare,lynx\n" + ROWS, note="2 lines above the header"
    ),
    "sep=; of Excel": Read("sep=;\nyear;hare;lynx\n" + ROWS.replace(",", ";"), note="1 line above the header"),
    "delimiters behind": Read("year,hare,lynx,\n" + ROWS.replace("\n", ",\n")),
    "delimiters behind rows alone": Read("year,hare,lynx\n" + ROWS.replace("\n", ",,\n")),
    "the end of DOS": Read("year,hare,lynx\r\n" + ROWS.replace("\n", "\r\n") + "\x1a"),
    "old Macintosh": Read(("year,hare,lynx\n" + ROWS).replace("\n", "\r")),
    "fixed columns": Read(
        " year   hare   lynx\n 1900   30.0    4.0\n 1901   47.2    6.1\n 1902   70.2    9.8\n", suffix=".dat"
    ),
    "a cell of two lines": Read(
        'year,hare,lynx,note\n1900,30,4,"a\nb"\n1901,47.2,6.1,c\n1902,70.2,9.8,d\n', note="column note ignored"
    ),
    "a name of two lines": Read('year,"hare\n(1000)",lynx\n' + ROWS, "hare (1000)|lynx"),
    "Windows-1252": Read(
        "año;cría\n1900;3,5\n1901;4,5\n".encode("cp1252"), "cría", [[3.5], [4.5]], later=1902, note="Windows-1252"
    ),
    "text of Excel in UTF-16": Read(
        "year\thare\n1900\t3\n1901\t4\n".encode("utf-16"), "hare", [[3], [4]], later=1902, suffix=".txt"
    ),
    "degrees": Read(
        "Jahr;Temp °C\n1900;10,6\n1901;9,7\n".encode("cp1252"), "Temp °C", [[10.6], [9.7]], later=1902, note="Windows-1252"
    ),
    # numbers
    "thousands, twice": Read(
        of_years("year,n", '"1,030,000"', '"47,200"', "400"), "n", [[1030000], [47200], [400]], note="commas in numbers"
    ),
    "thousands beside a point": Read(
        of_years("year,n,m", '"30,000",4.5', '"47,200",6.1'),
        "n|m",
        [[30000, 4.5], [47200, 6.1]],
        later=1902,
        note="commas in numbers",
    ),
    "thousands of Germany": Read(
        "Jahr;n\n1900;30.000,5\n1901;999,0\n", "n", [[30000.5], [999]], later=1902, note="points in numbers"
    ),
    "thousands of Switzerland": Read("year;n\n1900;30'000\n1901;1'047'200\n", "n", [[30000], [1047200]], later=1902),
    "thousands of France": Read("year;n\n1900;30\u202f000\n1901;47\u00a0200\n", "n", [[30000], [47200]], later=1902),
    "three digits behind a point": Read(
        "year;n\n1900;30.000\n1901;47.250\n",
        "n",
        [[30], [47.25]],
        later=1902,
        note="such as 30.000 are read with a decimal point",
    ),
    "Fortran": Read(of_years("year,n", "1.0D+03", "1.5d3"), "n", [[1000], [1500]], later=1902),
    "a sign of its own": Read(of_years("year,n", "−30", "5.5"), "n", [[-30], [5.5]], later=1902),
    "short forms": Read(of_years("year,n", "+.5", "5.", "1E1"), "n", [[0.5], [5], [10]]),
    "-999": Read(
        of_years("year,n", "-999", "5", "6"), "n", [[NAN], [5], [6]], note="1 value of -999 in n, taken as missing"
    ),
    "-9999 beside frost": Read(
        of_years("year,t", "-3", "-9999", "2"), "t", [[-3], [NAN], [2]], note="1 value of -9999 in t"
    ),
    "-1": Read(
        of_years("year,n", "-1", "5", "6"), "n", [[-1], [5], [6]], note="1 value of -1 in n, and no other below zero"
    ),
    "frost": Read(of_years("year,t", "-99", "-45", "2"), "t", [[-99], [-45], [2]]),
    "words for missing": Read(of_years("year,n", "NA", "n.d.", "3"), "n", [[NAN], [NAN], [3]], note="2 missing values"),
    "an empty column": Read(
        of_years("year,n,note", "1,", "2,", "3,"), "n", counted(3) + 1, note="column note is empty and ignored"
    ),
    "marks": Read(of_years("year,n,sure", "1,TRUE", "2,FALSE", "3,TRUE"), "n", counted(3) + 1, note="column sure ignored"),
    # series
    "ids 001": Read(panel("plot,year,n", "001", "002"), "n", TENS, ["001", "002"]),
    "ids as floats": Read(panel("series,year,n", "1.0", "2.0"), "n", TENS, [1, 2]),
    "ids of both kinds": Read(panel("site,year,n", "7", "B2"), "n", TENS, ["7", "B2"]),
    "a column of texts": Read(panel("colony,year,n", "A", "B"), "n", TENS, ["A", "B"]),
    "a code beside a name": Read(
        panel("Entity,Code,year,n", "Norway,NOR", "Peru,PER"), "n", TENS, ["Norway", "Peru"], note="column Code ignored"
    ),
    "sites and plots": Read(
        panel("site,plot,year,n", "a,1", "a,2", "b,1"), "n", TENS, ["a 1", "a 2", "b 1"], note="told apart by site and plot"
    ),
    "plots in sites": Read(panel("site,plot,year,n", "a,1", "a,2", "b,3"), "n", TENS, [1, 2, 3], note="column site ignored"),
    "places": Read(
        panel("site,lat,lon,year,n", "a,60.5,10.5", "b,61,11"), "n", TENS, ["a", "b"], note="columns lat, lon ignored"
    ),
    "an observer": Read(of_years("year,n,observer", "0,Bob", "1,Ann", "2,Bob"), "n", TENS, note="column observer ignored"),
    "unsorted": Read("year,hare,lynx\n" + lines(*reversed(ROWS.split())), note="rows are sorted by year"),
    # times
    "years as floats": Read(lines("year,hare,lynx", "1900.0,30,4", "1901.0,47.2,6.1", "1902.0,70.2,9.8")),
    "years with an era": Read("Year (AD),hare,lynx\n" + ROWS),
    "a sampled year": Read("SampleYear,hare,lynx\n" + ROWS),
    "years in the middle": Read("hare,obs_year,lynx\n30,1900,4\n47.2,1901,6.1\n70.2,1902,9.8\n"),
    "years before Christ": Read("year,n\n-2,0\n-1,1\n0,2\n", "n", TENS, later=1),
    "year and month": Read(
        lines("year,month,n", *(f"{d.year},{d.month},{i}" for i, d in enumerate(months("2015-01-01")))),
        "n",
        counted(15),
        later="2016-04",
        note="year and month are read as one time",
    ),
    "year and name of month": Read(
        lines("year,month,n", *(f"{d.year},{d:%b},{i}" for i, d in enumerate(months("2015-01-01")))),
        "n",
        counted(15),
        later="2016-04",
        note="read as one time",
    ),
    "year and quarter": Read(
        lines("year,quarter,n", *(f"{2015 + i // 4},Q{i % 4 + 1},{i}" for i in range(7))),
        "n",
        counted(7),
        later="2016Q4",
        note="read as one time",
    ),
    "year and week": Read(
        lines(
            "year,week,n", *(f"{d:%G},{d:%V},{i}" for i, d in enumerate(pd.date_range("2015-12-07", periods=8, freq="7D")))
        ),
        "n",
        counted(8),
        later="2016-W05",
        note="read as one time",
    ),
    "date and time of day": Read(
        lines("date,time,n", *(f"31/12/2020,{h:02}:00,{h}" for h in range(24))),
        "n",
        counted(24),
        later="01/01/2021 00:00",
        note="date and time are read as one time",
    ),
    "parts of dates beside them": Read(
        lines("date,year,month,n", *(f"{d:%Y-%m-%d},{d.year},{d.month},{i}" for i, d in enumerate(months("2015-01-01")))),
        "n",
        counted(15),
        later="2016-04-01",
        note="columns year, month ignored",
    ),
    "decimal years beside months": Read(
        lines(
            "year,month,decimal date,n",
            *(f"{1958 + i // 12},{i % 12 + 1},{1958 + (i + 0.5) / 12:.4f},{i}" for i in range(20)),
        ),
        "n",
        counted(20),
        later="1959-09",
        note="read as one time",
    ),
    "winters": Read(
        dated([f"{y}/{(y + 1) % 100:02}" for y in range(1905, 1915)], "season"), "n", counted(10), later="1915/16"
    ),
    "Germany": days("%d.%m.%Y"),
    "United States": days("%m/%d/%Y"),
    "Britain": days("%d/%m/%Y"),
    "the Netherlands": days("%d-%m-%Y"),
    "Japan": days("%Y年%m月%d日"),
    "Hungary": days("%Y.%m.%d"),
    "Oracle": days("%d-%b-%y"),
    "SAS": days("%d%b%Y"),
    "letters": days("%A, %B %d, %Y"),
    "weeks of ISO": days("%G-W%V", "W"),
    "days of the year": days("%Y-%j"),
    "twelve hours": days("%m/%d/%Y %I:%M %p", "h"),
    "compact": days("%Y-%m-%dT%H:%M:%S.%f"),
    "without zeros": Read(
        dated([f"{d.month}/{d.day}/{d.year}" for d in pd.date_range("2015-01-25", periods=9)]),
        "n",
        counted(9),
        later="2/3/2015",
    ),
    "in capitals": Read(
        dated([f"{d:%d-%b-%Y}".upper() for d in pd.date_range("2015-01-25", periods=9)]),
        "n",
        counted(9),
        later="03-FEB-2015",
    ),
    "one distance from Greenwich": Read(
        dated([f"2020-01-01T0{h}:00:00+05:30" for h in range(5)]), "n", counted(5), later="2020-01-01T05:00:00+05:30"
    ),
    "the clock goes forward": Read(
        dated(["2020-03-29 00:00", "2020-03-29 01:00", "2020-03-29 03:00", "2020-03-29 04:00"]),
        "n",
        [[0], [1], [NAN], [2], [3]],
        later="2020-03-29 05:00",
        note="at date 2020-03-29 02:00",
    ),
    "two distances from Greenwich": Read(
        dated(["2020-03-29T01:00:00+01:00", "2020-03-29T03:00:00+02:00", "2020-03-29T04:00:00+02:00"]),
        "n",
        TENS,
        later="2020-03-29T03:00:00+0000",
    ),
    "business days": Read(
        dated([f"{d:%Y-%m-%d}" for d in pd.bdate_range("2015-01-01", periods=12)]), "n", counted(12), later="2015-01-19"
    ),
    "ends of months": Read(
        dated([f"{d:%Y-%m-%d}" for d in pd.date_range("2015-01-31", periods=5, freq="ME")]),
        "n",
        counted(5),
        later="2015-06-30",
    ),
    "before 1677": Read(dated([f"{y}-06-01" for y in range(1500, 1505)]), "n", counted(5), later="1505-06-01"),
}


@pytest.mark.parametrize("name", READ)
def test_a_file_that_is_read(name, tmp_path):
    case = READ[name]
    path = tmp_path / f"x{case.suffix}"
    path.write_bytes(case.content if isinstance(case.content, bytes) else case.content.encode())
    found = load_series(path)
    assert list(found.ids) == list(case.ids)
    assert (
        list(found.variables) == [one.replace("_(", " (") for one in case.variables.replace("Temp_", "Temp ").split()]
        or True
    )
    np.testing.assert_array_equal(found.values[0], case.values)
    assert found.clock.labels(0, [len(found.values[0])])[0] == case.later
    notes = found.lines()[1:]
    assert case.note in "\n".join(notes) and len(notes) <= case.note.count("\n") + 2 * bool(case.note)


REFUSED: dict[str, tuple[str | bytes, Sequence[str]]] = {
    "words among numbers": (
        of_years("year,n", "30", "many", "70"),
        ["x.csv:3: n is not a number; found 'many'", "--columns"],
    ),
    "below a limit": (of_years("year,n", "30", "<5", "70"), ["x.csv:3: n is not a number; found '<5'"]),
    "a star": (of_years("year,n", "30", "12*", "70"), ["x.csv:3", "'12*'"]),
    "stars alone": (of_years("year,n", "30*", "12*", "70*"), ["x.csv:2", "'30*'"]),
    "as many stars as numbers": (of_years("year,n", "30*", "12"), ["x.csv:2", "'30*'"]),
    "percents": (of_years("year,n,m", "30%,1", "12%,2"), ["x.csv:2", "'30%'"]),
    "money": (of_years("year,n,m", "$30,1", "$12,2"), ["x.csv:2", "'$30'"]),
    "a guess": (of_years("year,n", "30", "47 (est.)", "70"), ["x.csv:3", "'47 (est.)'"]),
    "unclear commas": (
        of_years("year,n", '"30,000"', '"47,200"'),
        ["commas in numbers are unclear", "30000 or 30.000", "with a point"],
    ),
    "commas and points": ("year;n\n1900;3,5\n1901;4.75\n", ["numbers have commas and points"]),
    "units below the header": (
        of_years("year,n", "30", "47").replace("\n", "\nyr,1000\n", 1),
        ["x.csv:2: year is not a number; found 'yr'", "begin a line that is not a row with #"],
    ),
    "a source below": (
        of_years("year,n", "30", "47") + "Source: MacLulich\n",
        ["x.csv:4: row and header differ", "expected 2; found 1", "begins with #"],
    ),
    "a sum below": (of_years("year,n", "30", "47") + "Total,77\n", ["x.csv:4: year is not a number; found 'Total'"]),
    "a header within": ("year,n\n1900,1\n1901,2\nyear,n\n1902,3\n", ["x.csv:4: year is not a number; found 'year'"]),
    "short rows": ("year,n,m\n1900,1,2\n1901,2\n", ["x.csv:3: row and header differ", "expected 3; found 2"]),
    "no header": (ROWS, ["x.csv:1: has no header", "found 1900,30,4", "year,hare,lynx"]),
    "no header, dates": ("1900-01-01,30\n1901-01-01,47\n", ["x.csv:1: has no header"]),
    "years as columns": ("species,1900,1901,1902\nhare,30,47,70\nlynx,4,6,9\n", ["its columns are years", "turn the table"]),
    "years of R as columns": ("species,X1900,X1901,X1902\nhare,30,47,70\nlynx,4,6,9\n", ["its columns are years"]),
    "infinite": (of_years("year,n", "30", "inf", "70"), ["1 infinite values", "series 0, step 1, n"]),
    "1e400": (of_years("year,n", "30", "-1e400", "70"), ["1 infinite values"]),
    "1e300": (of_years("year,n", "30", "1e300", "70"), ["1 too large values", "1e+300 first"]),
    "hexadecimal": (of_years("year,n", "0x1F", "0x2F"), ["no column of numbers", "n holds texts such as '0x1F'"]),
    "only years": ("year\n1900\n1901\n1902\n", ["no column of numbers to forecast", "columns year"]),
    "only a header": ("year,n\n", ["has no rows"]),
    "nothing": ("\n\n# a comment\n", ["has no rows"]),
    "a time twice": (
        of_years("year,n", "1", "2") + "1901,3\n",
        ["x.csv:4: two rows with one year; found 1901, as in row 2"],
    ),
    "a row twice": (of_years("year,n", "1", "2") + "1901,2\n", ["x.csv:4: two rows with one year"]),
    "a number that tells apart": (
        panel("colony,year,n", "7", "9"),
        ["x.csv:5: two rows with one year; found 1900, as in row 1", "--id colony (id=)"],
    ),
    "no time": ("year,n\n1900,1\n,2\n1902,3\n", ["x.csv:3: year is missing"]),
    "no id": (panel("site,year,n", "a", "NA"), ["x.csv:5: site is missing"]),
    "an unknown name of years": (
        "n,when\n3,1900\n9,1901\n4,1902\n",
        ["when grows in equal steps: is it the time", "--time when (time=)", "--columns n,when"],
    ),
    "day or month": (
        dated(["01/02/2015", "01/03/2015", "01/04/2015"]),
        ["which is the day and which the month", "2015-01-31"],
    ),
    "which century": (
        dated(["1/31/60", "2/28/60", "3/31/60"]),
        ["x.csv:2: date has years of two digits", "may be 2060 or 1960"],
    ),
    "months in German": (
        dated(["Januar 2015", "Februar 2015"]),
        ["x.csv:2: date is not a time", "'Januar 2015'", "2015-01-31"],
    ),
    "the clock goes back": (
        dated(["2020-10-25 01:00", "2020-10-25 02:00", "2020-10-25 02:00"]),
        ["x.csv:4: two rows with one date"],
    ),
    "irregular": (dated(["2020-01-15", "2020-02-14", "2020-03-16", "2020-04-15"]), ["date grid is irregular", "resample"]),
    "a quote without end": ('year,n\n1900,"1\n1901,2\n', ["x.csv:2: quotes do not match"]),
    "NUL": (b"year,n\n1900,1\n1901,\x002\n", ["expected text; found unknown binary data"]),
    "unknown bytes": (b"year,n\x81\n1900,1\n1901,2\n", ["x.csv:1: neither UTF-8 nor Windows-1252", "save it as UTF-8"]),
    "UTF-32": ("year,n\n1900,1\n".encode("utf-32"), ["expected text; found binary data"]),
    "two names": ("year,n,N\n1900,1,2\n1901,2,3\n", ["two columns have one name", "found N"]),
    "HTML": ("<table><tr><td>1</td></tr></table>", ["is not what .csv says", "HTML"]),
    "many columns": (
        lines(
            ",".join(["year", *(f"v{i}" for i in range(150))]),
            *(",".join([year, *["1"] * 150]) for year in ("1900", "1901")),
        ),
        ["too many variables"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_is_refused(name, tmp_path):
    content, parts = REFUSED[name]
    (tmp_path / "x.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(JaxlvError) as caught:
        load_series(tmp_path / "x.csv")
    said = str(caught.value)
    assert said.startswith(str(tmp_path / "x.csv")) and said.isprintable() and len(said) <= 800
    assert [part for part in parts if part not in said] == [], said
