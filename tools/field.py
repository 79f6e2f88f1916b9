"""`jaxlv field`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from jaxlv.config import EvaluateConfig
from jaxlv.tools.bounds import whole
from jaxlv.tools.console import Progress, Result, made, say, verb
from jaxlv.tools.options import Bare, Reading, Sampling, asked, setting


def field(
    *files: Path,
    out: Path,
    model: str = "embedded",
    context: Annotated[int, setting(EvaluateConfig, "context")] = 30,
    horizon: Annotated[int, setting(EvaluateConfig, "horizon")] = 8,
    every: Annotated[int, whole()] = 2,
    samples: Annotated[int, setting(EvaluateConfig, "samples")] = 20,
    seed: Annotated[int, setting(EvaluateConfig, "seed")] = 0,
    batch_series: Annotated[int, setting(EvaluateConfig, "batch_series")] = 32,
    overwrite: bool = False,
    reading: Reading | None = None,
    sampling: Sampling | None = None,
    bare: Bare | None = None,
) -> Result:
    """Measure a model, a pool of methods and every baseline on records of the field, from rolling origins.

        jaxlv field counts.csv --out DIR
        jaxlv field FOLDER --context 30 --horizon 8 --every 2 --samples 20 --out DIR

    FILES are files of series, or folders of them; a file that cannot be measured is left out, with the reason. Of a file
    with more than four variables each is a series of its own. A record too short for the context has windows of the longest
    context that fits. The pool weights the model, VAR, analogs and fitted equations by how well each forecast the context
    itself. AutoETS, AutoARIMA and Theta are among the baselines if statsforecast is installed (the extra stats).

    Args:
        files: files of series, or folders of them
        out: folder for field.json (every method's scores on every record) and report.html
        model: run folder, model folder, hub id, embedded, embedded-cycles, or embedded-field
        context: steps before an origin that every method is given
        horizon: steps ahead
        every: steps between origins
        samples: trajectories of the model for each window
        seed: of the samples
        batch_series: windows that are decoded together
        overwrite: replace an older folder of this verb
    """
    from jaxlv.report import field as page
    from jaxlv.studies import field as study

    request = asked(model, None, None, sampling=sampling, bare=bare, reading=reading)
    how = study.Windows(context, horizon, every, samples, seed, batch_series)
    result = study.field(files, out, request, how, Progress, say, overwrite=overwrite)
    return made(out, [page.format_tables(result)], {"result": result.tree()}, figures=study.RESULT, report=study.REPORT)


app = verb(field)
