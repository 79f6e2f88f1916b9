"""The files for clusters in docs/examples and tools/slurm: their form, and that they call programs which exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from jaxlv.tools import cli
from jaxlv.tools.console import GROUP

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES, SCRIPTS = ROOT / "docs" / "examples", sorted((ROOT / "tools" / "slurm").glob("*.sbatch"))
# Of SkyPilot's schema of a task (sky/utils/schemas.py, get_task_schema), what a task here may have.
TASK = {
    "name": str, "workdir": str, "num_nodes": int, "resources": dict, "file_mounts": dict, "setup": str, "run": str,
    "envs": dict,
}  # fmt: skip
# Of JobSet's v1alpha2, and of Kubernetes' batch/v1 and v1, the fields that the example has at each place.
JOBSET: dict[str, set[str]] = {
    "": {"apiVersion", "kind", "metadata", "spec"},
    "spec": {"network", "failurePolicy", "replicatedJobs"},
    "spec.network": {"enableDNSHostnames", "publishNotReadyAddresses"},
    "spec.failurePolicy": {"maxRestarts"},
    "spec.replicatedJobs": {"name", "replicas", "template"},
    "spec.replicatedJobs.template.spec": {"parallelism", "completions", "completionMode", "backoffLimit", "template"},
    "spec.replicatedJobs.template.spec.template.spec": {
        "restartPolicy", "serviceAccountName", "terminationGracePeriodSeconds", "containers", "volumes",
    },
    "spec.replicatedJobs.template.spec.template.spec.containers": {
        "name", "image", "command", "args", "resources", "volumeMounts",
    },
}  # fmt: skip


def at(tree: Any, path: str) -> Any:
    for name in filter(None, path.split(".")):
        tree = tree[name]
        tree = tree[0] if isinstance(tree, list) else tree
    return tree


@pytest.mark.parametrize("path", JOBSET)
def test_a_job_set_has_the_fields_of_its_schema(path):
    tree = yaml.safe_load((EXAMPLES / "jobset.yaml").read_text())
    assert set(at(tree, path)) == JOBSET[path]
    assert (tree["apiVersion"], tree["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    job = at(tree, "spec.replicatedJobs.template.spec")
    assert job["completionMode"] == "Indexed" and job["parallelism"] == job["completions"]  # JAX asks for both


def test_a_task_of_skypilot_has_the_fields_of_its_schema():
    tree = yaml.safe_load((EXAMPLES / "skypilot.yaml").read_text())
    assert all(isinstance(value, TASK[name]) for name, value in tree.items())


def texts() -> dict[str, str]:
    job = at(yaml.safe_load((EXAMPLES / "jobset.yaml").read_text()), "spec.replicatedJobs.template.spec.template.spec")
    task = yaml.safe_load((EXAMPLES / "skypilot.yaml").read_text())
    return {
        "jobset.yaml": job["containers"][0]["args"][0],
        "skypilot.yaml": task["run"],
        **{path.name: path.read_text() for path in SCRIPTS},
    }


@pytest.mark.parametrize("name", texts())
def test_a_script_is_one_and_calls_programs_that_exist(name, tmp_path):
    (tmp_path / "script").write_text(texts()[name])
    assert subprocess.run(["bash", "-n", tmp_path / "script"], check=False).returncode == 0
    calls = re.findall(r"jaxlv (\w+)(.*)", re.sub(r"\\\n", "", texts()[name]))
    known = {"out", "resume", "shard", "grid", *GROUP}
    assert calls and all(verb in cli.VERBS for verb, _ in calls)
    assert {option for _, rest in calls for option in re.findall(r"--(\w+)", rest)} <= known


def test_jobs_are_asked_to_end_before_their_time_and_are_queued_again():
    for path in SCRIPTS:
        text = path.read_text()
        assert "#SBATCH --signal=TERM@120\n" in text and "#SBATCH --requeue\n" in text
        assert 'if [ $status -eq 143 ]; then scontrol requeue "$SLURM_JOB_ID"' in text
