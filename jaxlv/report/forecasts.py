"""The page and the table of `jaxlv forecast`: what comes next in each series, drawn, and as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jaxlv.report import terminal
from jaxlv.report.evaluation import settings_section
from jaxlv.report.figures import evaluation as figures
from jaxlv.report.format import number, percent, shortened
from jaxlv.report.page import Page, Section, figure, write
from jaxlv.report.table import Table, words
from jaxlv.results.forecasts import ForecastSettings, Next
from jaxlv.results.panels import ForecastPanel

SHOWN = 24  # rows of a table in a terminal
LISTED = 2000  # rows of a page's table


def table_of(rows: Sequence[Next], settings: ForecastSettings) -> Table:
    """Returns the values that are forecast: series, time, variable, median and the 80 % band."""
    several = len(settings.series) > 1
    columns = [words("series"), words("time"), words("variable"), *Next.columns("median", "band")]
    caption = f"The median and the 80 % band of {settings.samples} samples, in the units of the data."
    return Table("Forecasts", caption, rows, columns if several else columns[1:])


def format_table(rows: Sequence[Next], settings: ForecastSettings) -> str:
    """Returns the first rows for a terminal, and how many more forecast.csv has."""
    text = terminal.table(table_of(rows[:SHOWN], settings))
    rest = len(rows) - SHOWN
    return f"{text}\n... and {rest:,} more in forecast.csv" if rest > 0 else text


def summary(settings: ForecastSettings) -> str:
    """Returns what was forecast, of what and from how much, in a few sentences; and the error, if the future is known."""
    count = len(settings.series)
    series = f"{count} series" if count > 1 else "one series"
    told = f"{settings.horizon} steps ahead of {series} of {settings.data}, from at most {settings.context} steps before."
    if settings.holdout:
        told += f" The last {settings.holdout} steps were not shown to the model."
    if settings.mae is not None:
        told += f" The median is off by {number(settings.mae)} on average, in the units of the data."
    if settings.valid_share is not None and settings.valid_share < 1:
        told += f" Of the samples {percent(settings.valid_share)} % are complete."
    return told


def page_of(
    settings: ForecastSettings, rows: Sequence[Next], panels: Sequence[ForecastPanel], notes: Sequence[str] = ()
) -> Page:
    """Returns the page: a figure of each panel, the values, and the settings."""
    drawn = [
        figure(
            figures.forecast_figure(panel),
            f"Series {panel.series_id}: forecast of {' and '.join(panel.variables)}",
            f"Series {panel.series_id}: context{' and truth' if panel.truth_HV is not None else ''} in ink, the median in"
            f" colour with its bands over {len(panel.samples_SHV)} samples.",
        )
        for panel in panels
    ]
    left = len(settings.series) - len(panels)
    table = table_of(rows[:LISTED], settings)
    if len(rows) > LISTED:
        table = replace(table, caption=f"{table.caption} The first {LISTED:,} values; forecast.csv has all {len(rows):,}.")
    known = settings.known()
    versions = known.pop("versions")
    sections = [
        Section("Forecasts", drawn, f"{left} more series are in forecast.csv." if left > 0 else ""),
        Section("Values", [table]),
        settings_section(("Settings", known), ("Versions", versions), written=shortened),
    ]
    told = " ".join([summary(settings), *(f"{note[:1].upper()}{note[1:]}." for note in notes)])
    return Page(f"Forecasts of {settings.data}", told, (), sections)


def write_page(
    path: Path, settings: ForecastSettings, rows: Sequence[Next], panels: Sequence[ForecastPanel], notes: Sequence[str] = ()
) -> None:
    """Writes the page, completely or not at all."""
    write(path, page_of(settings, rows, panels, notes))
