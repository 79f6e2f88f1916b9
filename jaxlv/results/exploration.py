"""What a set of series is like; the JSON of an `Exploration` is exploration.json, and each of its tables is a CSV file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxlv.results.quantities import RAW, quantity
from jaxlv.results.record import Id, Number, Record, beside, rare

CLUSTERS = 4
SHOWN = 2  # steps of a text that are shown


@dataclass(frozen=True)
class Check(Record):
    """A check of a file, or a fact about it, for which `ok` is None; `first` places what is wrong."""

    check: str = quantity("check", form="words")
    found: Any = quantity("found", form="words")
    expected: str | None = quantity("expected", form="words")
    ok: bool | None = None
    first: str = quantity("where the first is", form="words")
    verdict = property(lambda self: "passed" if self.ok else "failed")


@dataclass(frozen=True)
class Values(Record):
    """All values, or those of a variable, with percentiles."""

    name: str = quantity("values of", form="words", key="values of")
    count: int = quantity("values", form="count")
    min: float = quantity("min", RAW, group="all values")
    max: float = quantity("max", of="min")
    mean: float = quantity("mean", of="min")
    sd: float = quantity("sd", of="min")
    p50: float = quantity("50 %", RAW, group="percentiles")
    p90: float = quantity("90 %", of="p50")
    p95: float = quantity("95 %", of="p50")
    p99: float = quantity("99 %", of="p50")
    p99_7: float = quantity("99.7 %", of="p50", key="p99.7")
    p99_9: float = quantity("99.9 %", of="p50", key="p99.9")


@dataclass(frozen=True)
class MeanStep(Record):
    """A variable at a step, over series, in raw units."""

    step: int
    time: float
    variable: str
    mean: float
    sd: float
    p10: float
    median: float
    p90: float


@dataclass(frozen=True)
class Spread(Record):
    """Distribution of a number over the series that have it."""

    series: int | None = quantity("series", form="count", group="over series")
    mean: float | None = quantity("mean", group="over series")
    sd: float | None = quantity("sd", of="mean")
    min: float | None = quantity("min", of="mean")
    p5: float | None = quantity("5 %", of="mean")
    median: float | None = quantity("median", of="mean")
    p95: float | None = quantity("95 %", of="mean")
    max: float | None = quantity("max", of="mean")


@dataclass(frozen=True, kw_only=True)
class State(Spread):
    """A variable at the first step ("initial") or the last ("final"), in raw units."""

    state: str
    variable: str
    name = property(lambda self: f"{self.state} {self.variable}")


@dataclass(frozen=True, kw_only=True)
class Cycle(Spread):
    """Periods or lags, in a unit."""

    quantity: str
    unit: str
    name = property(lambda self: f"{self.quantity}, {self.unit}")


@dataclass(frozen=True)
class PeakCount(Record):
    """The number of series with so many peaks of a variable."""

    peaks: int
    series: Mapping[str, int] = beside("{}", form="count")


@dataclass(frozen=True)
class PeakRule(Record):
    """The cycles of the first variable by what counts as a peak, and the second's lag; in steps."""

    prominence: float
    places: str
    used: bool
    few: int = quantity("with under two peaks", form="count", group="series", key="fewer than two peaks")
    period: float | None = quantity("mean", "steps")
    period_p5: float | None = quantity("5 %", of="period")
    period_p95: float | None = quantity("95 %", of="period")
    lag: float | None = quantity("mean", "steps")
    lag_share: float | None = quantity("mean", "% of the period", group="the same", form="share")
    name = property(lambda self: f"{100 * self.prominence:g} %, {self.places}")


@dataclass(frozen=True)
class RestRule(Record):
    """The series at rest by the deviation, as a share of the mean, that counts as rest."""

    limit: float
    used: bool
    series: int | None = quantity("number", form="count", group="series at rest")
    share: float = quantity("share", "%", form="share", group="of all series")
    name = property(lambda self: f"{100 * self.limit:g} %")


@dataclass(frozen=True)
class OneSeries(Record):
    """All that is known about a series. `variables` has "peaks of NAME" and "period of NAME (steps)"; the cluster and
    features are there if there are clusters.
    """

    series: Id
    regime: str = quantity("regime by rule", form="words", key="regime by rule")
    variables: Mapping[str, Number | None] = beside("{}")
    lag: float | None = quantity("lag", "steps", key="lag (steps)")
    lag_share: float | None = quantity("lag", "% of the period", form="share", key="lag (share of the period)")
    cluster: int | None = rare()
    features: Mapping[str, float | None] = beside("feature: {}")


@dataclass(frozen=True)
class ReportedRegime(Record):
    """A regime that the paper xu names: its share there and here, by rule and in the cluster that stands for it."""

    name: str = quantity("regime", form="words", key="regime of the report")
    reported: float = quantity("xu", form="share", group="share of the series", key="reported share")
    by_rule: float = quantity("by rule", of="reported", key="share by rule")
    cluster: int | None = quantity("number", form="count", group="cluster")
    clustered: float | None = quantity("cluster", of="reported", key="share of the cluster")
    jaccard: float | None = quantity("Jaccard index", group="cluster")
    looks: str = quantity("in words", form="words")


@dataclass(frozen=True)
class Centre(Record):
    """A cluster, the medians of its features, and what sets it apart, in words."""

    cluster: int = quantity("cluster", form="count")
    series: int = quantity("series", form="count")
    share: float = quantity("share", form="share", group="of all")
    features: Mapping[str, float] = beside("{}", group="medians of the cluster")
    looks: str = quantity("in words", form="words")


@dataclass(frozen=True)
class ClusterRules(Record):
    """The series of a cluster by their regime by rule."""

    cluster: int | None = quantity("cluster", form="count")
    rules: Mapping[str, int] = beside("{}", form="count", group="series with this regime by rule")


@dataclass(frozen=True)
class FeatureSet(Record):
    """What K-means makes of a set of features: shares by size, and how far they agree with other things."""

    set: str = quantity("set", form="words")
    features: str = quantity("features", form="words")
    share_1: float = quantity("1", form="share", group="shares by size", key="share 1")
    share_2: float = quantity("2", of="share_1", key="share 2")
    share_3: float = quantity("3", of="share_1", key="share 3")
    share_4: float = quantity("4", of="share_1", key="share 4")
    distance: float = quantity("to xu", group="distance", key="distance to the report")
    rand_with_rules: float = quantity("with rules", group="adjusted Rand index", key="rand index with rules")
    least_rand: float = quantity("over 4 seeds", of="rand_with_rules", key="least rand index over 4 seeds")
    silhouette: float = quantity("mean", group="silhouette")


@dataclass(frozen=True)
class Silhouette(Record):
    """The mean silhouette of so many clusters."""

    clusters: int
    silhouette: float = quantity("mean silhouette")


@dataclass(frozen=True)
class SeedScore(Record):
    """How far the clusters of another seed agree."""

    seed: int
    rand: float = quantity("adjusted Rand index", key="adjusted rand index")


@dataclass(frozen=True)
class Regimes(Record):
    """Scores of the clusters, the features that were clustered, and all features in words: [name, unit, meaning] each."""

    silhouette: float = quantity("mean silhouette")
    rand_with_rules: float = quantity("adjusted Rand index with rules", key="rand index with rules")
    least_rand: float = quantity("least adjusted Rand index over seeds", key="least rand index over seeds")
    features: tuple[str, ...] = ()
    words: tuple[tuple[str, ...], ...] = ()


# -------------------------------------------------------------------------------------------------- series as text


@dataclass(frozen=True)
class Tokens(Record):
    """A scheme, and the tokens of the series that it can write; `reason` says why it cannot write the others."""

    scheme: str = quantity("scheme", form="words")
    top: str = quantity("what is written as 10", form="words")
    decimals: int = quantity("decimals", form="count")
    series: int | None = quantity("series", form="count")
    absent: int = quantity("series not written", form="count", key="not written")
    reason: str = quantity("reason", form="words")
    looks_at: str = quantity("fitted on", form="words", key="looks at")
    alpha_min: float | None = quantity("least", "raw units per written unit", group="alpha", key="alpha min")
    alpha_max: float | None = quantity("most", of="alpha_min", key="alpha max")
    least: float | None = quantity("least", form="count", group="tokens per series", key="tokens min")
    median: float | None = quantity("median", of="least", key="tokens median")
    most: float | None = quantity("most", of="least", key="tokens max")
    per_step: float | None = quantity("tokens per step", key="tokens per step")
    zero: float | None = quantity("as 0", form="share", group="values written", key="written as zero")
    above: float | None = quantity("10 or more", of="zero", key="above the top")


@dataclass(frozen=True)
class RoundTrip(Record):
    """Errors of values that were written and read again."""

    scheme: str = quantity("scheme", form="words")
    series: int | None = quantity("series", form="count")
    mae: float | None = quantity("mean", RAW, group="mean absolute error")
    least: float | None = quantity("least", of="mae", key="mae min")
    median: float | None = quantity("median", of="mae", key="mae median")
    most: float | None = quantity("most", of="mae", key="mae max")
    by_variable: Mapping[str, float | None] = beside("mae of {}", of="mae")
    largest: float | None = quantity("largest", RAW, group="single error", key="max error")
    bound: float | None = quantity("bound, median", of="largest", key="median half unit")


@dataclass(frozen=True)
class WrittenText(Record):
    """A series as text in a scheme; scales and token ids are parted by spaces."""

    series: Id
    scheme: str
    alpha: str = quantity("alpha (raw units per written unit)", form="words")
    tokens: int = quantity("in all", form="count", group="tokens")
    text: str = ""
    ids: str = ""
    name = property(lambda self: f"series {self.series}, {self.scheme}")
    opening = property(lambda self: ";".join(self.text.split(";")[:SHOWN]))
    opening_ids = property(lambda self: " ".join(self.ids.split(" ")[: len(self.opening)]))
    opening_tokens = property(lambda self: len(self.opening_ids.split()))


@dataclass(frozen=True)
class WrittenStep(Record):
    """A value, as it is written in a scheme, and as it is read again."""

    series: Id
    scheme: str
    step: int
    time: float | None = None
    variable: str = ""
    value: float | None = quantity("value", form="fine")
    written: str = quantity("written", form="literal")
    read_as: float | None = quantity("read", form="fine", key="read")
    difference: float | None = quantity("difference", form="signed")


@dataclass(frozen=True)
class Merge(Record):
    """A text, a "pair" that is one token or a longer "sample": its token ids, and whether the format can hold it."""

    text: str
    ids: str = quantity("token ids", form="words")
    tokens: int = quantity("tokens", form="count")
    characters: int = quantity("characters", form="count")
    kind: str = ""
    in_format: bool = quantity("can stand in the format", form="words", key="in format")
    name = property(lambda self: self.text.replace(" ", "␣"))


@dataclass(frozen=True)
class Windows(Record):
    """Windows of a length over a scheme's tokens of a part of the series; a share is None if it is not defined."""

    scheme: str
    part: str
    length: int
    stride: int = quantity("tokens", form="count", group="stride")
    kept: str = quantity("windows", form="words", key="windows kept")
    series: int | None = quantity("number", form="count", group="series")
    windows: int | None = quantity("number", form="count", group="windows")
    padding: float | None = quantity("positions", form="share", group="padding")
    left_out: float | None = quantity("tokens", form="share", group="left out", key="tokens left out")
    without_tail: int | None = quantity("series", form="count", group="without their tail", key="series without their tail")
    name = property(lambda self: f"{self.scheme}: {self.part}, {self.length}")


# ------------------------------------------------------------------------------------- what is drawn beside the tables


@dataclass(frozen=True)
class Trace(Record):
    """A series over time, by variable, and the band of 80 % of the series that it stands for, if it stands for others."""

    series: Id
    values: Mapping[str, tuple[float, ...]]
    low: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    high: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Histogram(Record):
    """What lies between edges, by name: a number of series, or a share in percent; and the mean of all that is counted."""

    edges: tuple[float, ...]
    heights: Mapping[str, tuple[float, ...]]
    mean: float | None = None


@dataclass(frozen=True)
class Dots(Record):
    """Places in a plane."""

    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Plane(Record):
    """The series of each cluster in two principal components, and the shares of the variance that these hold."""

    variance: tuple[float, ...]
    clusters: tuple[Dots, ...]


@dataclass(frozen=True)
class Drawn(Record):
    """What charts show beside the tables; empty if there is nothing to show."""

    time: tuple[float, ...] = ()
    shown: tuple[Trace, ...] = ()
    clusters: tuple[Trace, ...] = ()
    values: Histogram | None = None
    periods: Histogram | None = None
    lags: tuple[Histogram, ...] = ()  # in steps, and in percent of the period
    first: Dots | None = None
    last: Dots | None = None
    plane: Plane | None = None


# ------------------------------------------------------------------------------------------------------- together


def _key(key: str) -> Any:
    return field(default=(), metadata={"key": key})


@dataclass(frozen=True)
class Tables(Record):
    """The tables of an exploration; those of regimes and merges are there if there are clusters and a tokenizer."""

    quality: tuple[Check, ...] = ()
    values: tuple[Values, ...] = ()
    mean: tuple[MeanStep, ...] = ()
    states: tuple[State, ...] = ()
    cycles: tuple[Cycle, ...] = ()
    peaks: tuple[PeakCount, ...] = ()
    prominence: tuple[PeakRule, ...] = ()
    rest: tuple[RestRule, ...] = ()
    regimes: tuple[ReportedRegime, ...] = rare(default=())
    centres: tuple[Centre, ...] = rare(default=())
    contingency: tuple[ClusterRules, ...] = rare(default=())
    feature_sets: tuple[FeatureSet, ...] = rare("feature sets", ())
    silhouettes: tuple[Silhouette, ...] = rare(default=())
    stability: tuple[SeedScore, ...] = rare(default=())
    series: tuple[OneSeries, ...] = ()
    tokens: tuple[Tokens, ...] = ()
    round_trip: tuple[RoundTrip, ...] = _key("round trip")
    texts: tuple[WrittenText, ...] = ()
    steps: tuple[WrittenStep, ...] = ()
    merges: tuple[Merge, ...] = rare(default=())
    windows: tuple[Windows, ...] = ()


@dataclass(frozen=True)
class Example(Record):
    """A series that is shown, and its regime by rule."""

    series: Id
    regime: str

    def stem(self, place: int) -> str:
        """Returns what the files of its figures are called by; ids of texts may hold what no file name can."""
        return (
            str(self.series)
            if isinstance(self.series, int)
            else f"{place}_{re.sub(r'[^A-Za-z0-9]+', '-', self.series)[:40]}"
        )


@dataclass(frozen=True)
class Exploration(Record):
    """What exploration.json holds."""

    data: str
    data_sha256: str | None  # of a file
    course: bool  # whether these are the series of the papers
    series: int
    steps: int
    step: float  # the time between two steps
    variables: tuple[str, ...]
    window: int  # last steps in which a series may be at rest
    windowed: int  # series at most that windows are counted of
    examples: tuple[Example, ...]
    choice: str  # how the examples were chosen
    tokenizer: str
    definitions: Mapping[str, str]
    regimes: Regimes | None
    tables: Tables
    versions: Mapping[str, str]
    drawn: Drawn = field(default_factory=Drawn)  # older files have none

    def cycles(self, quantity: str) -> tuple[Cycle, ...]:
        """Returns the rows of a period or lag, by unit: in steps, in time units and, of a lag, as a share of the period."""
        return tuple(row for row in self.tables.cycles if row.quantity == quantity)
