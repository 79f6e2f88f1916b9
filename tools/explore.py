"""Look at a set of series: quality of the file, trajectories, periods and lags, regimes, and what it is as text.

    jaxlv explore series.h5 --out exploration
    jaxlv explore series.h5 --series 3,7 --tokenizer qwen2.5-0.5b-instruct --context-lengths 128,512,768 --out exploration

DIR gets a CSV file of every table, figures/ (SVG and PNG), report.html, and exploration.json with every number. Of a file
that cannot be used, quality.csv says what is wrong with it. Less than a minute for 1000 series.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from jaxlv.analysis import clusters, exploration, schemes
from jaxlv.data import series
from jaxlv.data.series import COURSE_SHA256, SeriesSet
from jaxlv.errors import JaxlvError
from jaxlv.forecasting import robustness
from jaxlv.forecasting.evaluate import plain
from jaxlv.model.weights import EMBEDDED_BASE
from jaxlv.report import exploration as report
from jaxlv.report.figures import exploration as figures
from jaxlv.report.figures import svg
from jaxlv.storage.files import new_folder, write_json
from jaxlv.storage.tables import write_csv
from jaxlv.tools.console import Progress, describe, parse_ids, program, whole
from jaxlv.versions import versions

QUALITY = "quality.csv"  # the table of the checks
STAGES = ("quality", "cycles", "regimes", "text", "windows", "figures")
CHOICE = "The first two series of the file, and the first of every other regime by rule."


def arguments() -> argparse.ArgumentParser:
    parser = describe("explore", __doc__)
    parser.add_argument("data", metavar="DATA", type=Path, help="series file: HDF5, CSV or NumPy")
    parser.add_argument("--series", type=parse_ids, help="ids such as 3,7 of the series that are shown (default: the first"
                        " two, and the first of every other regime)")  # fmt: skip
    parser.add_argument(
        "--tokenizer",
        help="Hugging Face folder, or embedded (default: Qwen2.5's ids of the 13 symbols, without a tokenizer)",
    )
    parser.add_argument("--context-lengths", type=replace(whole(2), several=True), default=schemes.LENGTHS, metavar="TOKENS",
                        help="lengths of windows (default 128,512,768)")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="folder for tables, figures, report.html, exploration.json")
    return parser


def usable(path: Path, out: Path) -> tuple[list[dict[str, Any]], SeriesSet]:
    """The checks of the file and its series; for a file that has none to use, quality.csv in `out`, and JaxlvError."""
    rows = exploration.inspect(path)
    try:
        return rows, series.load(path)
    except JaxlvError as fault:
        with new_folder(out, replace=is_refusal(out)) as work:
            write_csv(work / QUALITY, pd.DataFrame(rows))
        hint = "; ".join(filter(None, [fault.hint, f"the checks are in {out / QUALITY}"]))
        raise JaxlvError(fault.what, where=fault.where, expected=fault.expected, found=fault.found, hint=hint) from None


def is_refusal(out: Path) -> bool:
    """Whether a folder holds what `usable` leaves for a file that it refuses: it gives way to the next exploration."""
    return out.is_dir() and [path.name for path in out.iterdir()] == [QUALITY]


class Exploration:
    """The tables, numbers and drawings of a set of series, made stage by stage."""

    def __init__(self, data: SeriesSet, quality: list[dict[str, Any]], options: argparse.Namespace):
        self.data, self.options = data, options
        self.window = min(exploration.WINDOW, data.values_NTV.shape[1])
        self.rule_N = robustness.regimes_of(data, self.window)
        self.ids = options.series or exploration.example_ids(data.ids_N, self.rule_N)
        self.shown = data.select(self.ids)
        self.tables: dict[str, Any] = {"quality": quality, "values": exploration.value_rows(data)}
        self.found: dict[str, Any] | None = None
        self.folder = EMBEDDED_BASE if options.tokenizer == "embedded" else options.tokenizer
        self.alphabet, self.encode = schemes.alphabet_of(Path(self.folder) if self.folder else None)

    def cycles(self) -> None:
        """Periods, lags and rest."""
        data, step = self.data, self.step
        self.cycle = exploration.cycles(data.values_NTV)
        self.tables |= {
            "mean": exploration.mean_rows(data),
            "states": exploration.state_rows(data),
            "cycles": exploration.cycle_rows(self.cycle, data.variables, step),
            "peaks": exploration.peak_rows(self.cycle, data.variables),
            "prominence": exploration.prominence_rows(data.values_NTV),
            "rest": exploration.rest_rows(data.values_NTV, self.window),
        }

    @property
    def step(self) -> float:
        """The time between two steps."""
        time_T = self.data.time_T
        return float((time_T[-1] - time_T[0]) / (len(time_T) - 1))

    def regimes(self) -> None:
        """K-means, and a row per series of everything known of it."""
        self.found = clusters.explore(self.data, self.cycle, self.rule_N)
        own = {"series": self.data.ids_N, "regime by rule": self.rule_N}
        for v, name in enumerate(self.data.variables):
            own |= {f"peaks of {name}": self.cycle.peaks_NV[:, v], f"period of {name} (steps)": self.cycle.period_NV[:, v]}
        table = pd.DataFrame(own | {"lag (steps)": self.cycle.lag_N, "lag (share of the period)": self.cycle.share_N})
        if self.found:
            table["cluster"] = self.found["main"].label_N + 1
            table = table.join(self.found["table"].drop(columns="lag").add_prefix("feature: ").reset_index(drop=True))
            names = {"regimes": "regimes", "centres": "centres", "contingency": "contingency", "sets": "feature sets",
                     "silhouettes": "silhouettes", "stability": "stability"}  # fmt: skip
            self.tables |= {name: self.found[key] for key, name in names.items()}
        self.tables["series"] = table.to_dict("records")

    def text(self) -> None:
        """Every scheme's tokens and rounding errors, and the chosen series in it."""
        self.written = [schemes.write(name, self.data) for name in schemes.SCHEMES]
        self.tables |= {
            "tokens": schemes.token_rows(self.written, self.data),
            "round trip": schemes.round_trip_rows(self.written, self.data),
            "texts": schemes.text_rows(self.written, self.ids, self.alphabet),
            "steps": schemes.step_rows(self.written, self.shown),
        }
        self.tokenizer = self.alphabet.source
        if self.encode:
            self.tables["merges"] = schemes.merge_rows(self.encode)
            others = schemes.disagreements(self.written, self.ids, self.alphabet, self.encode)
            total = len(self.tables["texts"])
            name = "the embedded base" if self.folder == EMBEDDED_BASE else Path(self.folder).name
            self.tokenizer = (
                f"{name}, {self.alphabet.source}; it cuts {total - others} of the {total} texts of the chosen series into"
                " one token per character"
            )

    def windows(self) -> None:
        """Padding and tokens left out by window length."""
        lengths = list(dict.fromkeys(self.options.context_lengths))
        self.tables["windows"] = schemes.window_rows(self.written, self.data, self.alphabet, lengths)

    def result(self) -> dict[str, Any]:
        """Everything as exploration.json holds it."""
        rule_of = dict(zip(self.data.ids_N.tolist(), self.rule_N.tolist(), strict=True))
        found = self.found
        features = found["main"].names_F if found else ()
        return plain(
            {
                "data": Path(self.data.source["path"]).name,
                "data_sha256": self.data.source["sha256"],
                "course": self.data.source["sha256"] == COURSE_SHA256,
                "series": len(self.data),
                "steps": len(self.data.time_T),
                "step": self.step,
                "variables": self.data.variables,
                "window": self.window,
                "windowed": schemes.WINDOWED,
                "examples": [{"series": i, "regime": rule_of[i]} for i in self.ids],
                "choice": "Series as asked for." if self.options.series else CHOICE,
                "tokenizer": self.tokenizer,
                "definitions": exploration.DEFINITIONS,
                "regimes": found and {
                    **{key: found[key] for key in ("silhouette", "rand index with rules", "least rand index over seeds")},
                    "features": features,
                    "words": [(name, f.unit, f.words) for name, f in clusters.FEATURES.items()],
                },
                "tables": self.tables,
                "versions": versions(),
            }
        )  # fmt: skip

    def drawings(self) -> dict[str, tuple[Any, str]]:
        """Every figure by name, and its label."""
        return figures.drawings(self.data, self.shown, self.rule_N, self.cycle, self.step, self.found, self.tables)


def save(out: Path, result: dict[str, Any], drawings: dict[str, tuple[Any, str]]) -> None:
    """Leave tables, figures, numbers and the page in a folder."""
    for name, rows in result["tables"].items():
        write_csv(out / f"{name.replace(' ', '_')}.csv", pd.DataFrame(rows))
    write_json(out / "exploration.json", result)
    (out / "figures").mkdir()
    elements = {}
    for name, (drawing, label) in drawings.items():
        elements[name] = svg.to_svg(drawing, label)
        svg.save_pair(drawing, elements[name], out / "figures" / name)
    report.write_page(out / "report.html", result, elements)


@program(arguments)
def main(options: argparse.Namespace) -> None:
    if options.tokenizer not in (None, "embedded") and not Path(options.tokenizer).is_dir():
        raise JaxlvError(
            "no such folder", where="--tokenizer", expected="a Hugging Face folder, or embedded", found=options.tokenizer
        )
    with Progress("explore", len(STAGES)) as bar:
        bar.note(f"reading {options.data}")
        quality, data = usable(options.data, options.out)
        exploring = Exploration(data, quality, options)
        with new_folder(options.out, replace=is_refusal(options.out)) as out:
            for done, stage in enumerate(STAGES[1:-1], 1):
                bar.note(stage)
                getattr(exploring, stage)()
                bar.update(done, stage)
            bar.note("figures")
            result = exploring.result()
            save(out, result, exploring.drawings())
        bar.update(len(STAGES), "done")
    print(f"\n{report.format_facts(result)}\n")
    print(f"tables, figures: {options.out}\nreport:          {options.out / 'report.html'}")


if __name__ == "__main__":
    main()
