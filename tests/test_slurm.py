"""The batch scripts under a SLURM of one node, which the tests bring up: tasks, an array, and a job that is queued again."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jaxlv.flops import ledger
from jaxlv.runs import run, sweep
from tests.test_processes import losses, options, same, undisturbed  # noqa: F401

pytestmark = pytest.mark.slow
SCRIPTS = Path(__file__).resolve().parents[1] / "tools" / "slurm"
NEEDED = ("slurmctld", "slurmd", "munged", "srun", "sbatch", "runuser")
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={place}/munge/socket
CryptoType=crypto/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobRequeue=1
ReturnToService=2
MpiDefault=none
SlurmdParameters=config_overrides
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd.log
SrunPortRange=60001-63000
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    """The environment of commands for a SLURM of this machine alone."""
    if missing := [name for name in NEEDED if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")]:
        pytest.skip(f"SLURM is not installed ({', '.join(missing)}): apt-get install slurm-wlm munge")
    if os.getuid():
        pytest.skip("bringing up SLURM needs root")
    place = Path("/run") / f"jaxlv-slurm-{secrets.token_hex(4)}"
    for name in ("state", "spool", "munge"):
        (place / name).mkdir(parents=True)
    (place / "munge" / "key").write_bytes(secrets.token_bytes(128))
    subprocess.run(["chown", "-R", "munge:", place / "munge"], check=True)
    (place / "munge" / "key").chmod(0o400)
    (place / "munge").chmod(0o755)
    conf = place / "slurm.conf"
    conf.write_text(CONF.format(host=socket.gethostname(), place=place, ports=free_ports(2)))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"
    told = {**os.environ, "SLURM_CONF": str(conf), "PATH": path, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    files = (f"--{name}-file={place}/munge/{name}" for name in ("key", "pid", "log", "seed"))
    munge = ["runuser", "-u", "munge", "--", "munged", "-F", f"--socket={place}/munge/socket", *files]
    begun = []
    try:
        for command in (munge, ["slurmctld", "-D"], ["slurmd", "-D"]):
            begun.append(subprocess.Popen(command, env=told, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            time.sleep(2)
        until(told, lambda: "idle" in said(told, "sinfo", "-h", "-o", "%T"))
        yield told
    finally:
        for one in reversed(begun):
            one.terminate()
            one.wait(20)
        shutil.rmtree(place, ignore_errors=True)


def said(told: dict[str, str], *command: str) -> str:
    done = subprocess.run(command, env=told, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def until(told: dict[str, str], condition, seconds: float = 240) -> None:
    last = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < last, said(told, "squeue")
        time.sleep(0.2)


def script(name: str, folder: Path) -> str:
    """A batch script without what this machine has not: GPUs, and stated memory and cores."""
    text = re.sub(r"#SBATCH --(gpus|mem|cpus|ntasks-per-node=4|time).*\n", "", (SCRIPTS / name).read_text())
    place = folder / name
    place.write_text(text)
    return str(place)


def state(told: dict[str, str], job: str) -> str:
    return said(told, "squeue", "-h", "-j", job, "-o", "%T") if job in said(told, "squeue", "-h", "-o", "%A") else ""


def test_two_tasks_train_as_one(slurm, tiny_base, undisturbed, tmp_path):  # noqa: F811
    said(slurm, "srun", "-n", "2", "jaxlv", "train", *options(tiny_base, 8), "--out", str(tmp_path / "run"))
    same(tmp_path / "run", undisturbed)


def test_an_array_shares_a_grid_and_a_ledger(slurm, tiny_base, tmp_path):
    settings = options(tiny_base, 4)
    grid = ["--grid", "lora.rank=2,3", "--grid", "optimizer.learning_rate=1e-3,1e-2"]
    log = ["-o", str(tmp_path / "%a.log")]
    array = ["sbatch", "--parsable", "--array=1-2", *log, script("sweep_array.sbatch", tmp_path)]
    job = said(slurm, *array, settings[0], str(tmp_path / "out"), *grid, *settings[1:]).strip()
    until(slurm, lambda: not state(slurm, job))
    result = json.loads((tmp_path / "out" / sweep.RESULT).read_text())
    assert len(result["runs"]) == 4 and not ledger.verify(tmp_path / "out" / run.LEDGER)


def test_a_job_that_is_asked_to_end_is_queued_again_and_goes_on(slurm, tiny_base, undisturbed, tmp_path):  # noqa: F811
    config, out = tmp_path / "config.toml", tmp_path / "run"
    jaxlv = ["jaxlv", "train", *options(tiny_base, 8)]
    said(slurm, *jaxlv[:2], *jaxlv[2:], "--out", str(tmp_path / "first"))
    config.write_text((tmp_path / "first" / run.CONFIG).read_text())
    begin = ["sbatch", "--parsable", "-n", "2", "-o", str(tmp_path / "log"), script("one_node.sbatch", tmp_path)]
    job = said(slurm, *begin, str(config), str(out)).strip()
    until(slurm, lambda: (out / run.METRICS).is_file())
    said(slurm, "scancel", "--signal=TERM", job)
    until(slurm, lambda: "PENDING" in state(slurm, job) or "SIGTERM" in (tmp_path / "log").read_text())
    until(slurm, lambda: not state(slurm, job), 400)  # it waits two minutes, and goes on
    same(out, undisturbed)
    assert "go on with --resume" in (tmp_path / "log").read_text() and len(losses(out)) == 8
