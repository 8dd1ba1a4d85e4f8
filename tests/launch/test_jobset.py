"""launch/jobset.yaml: by the schema of JobSet and Kubernetes, and by what the run promises."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from launch import supervisor

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def manifest(repository: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((repository / "launch" / "jobset.yaml").read_text())
    return content


def errors(manifest: dict[str, Any]) -> list[str]:
    schema = json.loads((HERE / "jobset.schema.json").read_text())
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(manifest)]


def test_it_is_a_jobset(manifest: dict[str, Any]) -> None:
    assert errors(manifest) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "failurePolicy", "maxRestart"), 3),
        (("spec", "failurePolicy", "rules", 0, "action"), "Restart"),
        (("spec", "failurePolicy", "rules", 0, "name"), "real-failure"),
        (("spec", "replicatedJobs", 0, "template", "spec", "parallelism"), "four"),
        (("spec", "replicatedJobs", 0, "template", "spec", "template", "spec", "containers", 0, "env"), {"A": "b"}),
        (("spec", "replicatedJobs", 0, "template", "spec", "podFailurePolicy", "rules", 0, "onExitCodes", "values"), 1),
    ],
)
def test_the_schema_finds_what_a_cluster_would_refuse(
    manifest: dict[str, Any], path: tuple[str | int, ...], value: Any
) -> None:
    changed = copy.deepcopy(manifest)
    inner: Any = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    assert len(errors(changed)) == 1


def test_it_restarts_on_a_notice_and_stops_on_a_failure(manifest: dict[str, Any]) -> None:
    policy = manifest["spec"]["failurePolicy"]
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    (rule,) = policy["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    (fails,) = job["podFailurePolicy"]["rules"]
    codes = fails["onExitCodes"]
    assert fails["action"] == "FailJob" and codes["operator"] == "In"
    assert set(codes["values"]) == {1, 2} and supervisor.AGAIN not in codes["values"]
    assert policy["maxRestarts"] > 0 and job["backoffLimit"] == 0
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never" and codes["containerName"] == pod["containers"][0]["name"]


def test_its_workers_are_those_of_its_topology(manifest: dict[str, Any]) -> None:
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    chips = math.prod(map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")))
    resources = pod["containers"][0]["resources"]
    assert resources["limits"] == resources["requests"]
    assert job["completions"] == job["parallelism"] == chips // int(resources["limits"]["google.com/tpu"])
    assert job["completionMode"] == "Indexed" and manifest["spec"]["network"]["enableDNSHostnames"]
    topology = manifest["metadata"]["annotations"]["alpha.jobset.sigs.k8s.io/exclusive-topology"]
    assert topology == "cloud.google.com/gke-nodepool"


def test_its_workdir_outlives_it(manifest: dict[str, Any]) -> None:
    pod = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    folder = supervisor.workdir(pod["containers"][0]["command"])
    assert folder.startswith(f"{supervisor.MOUNT}/")
    assert "nfs" in next(volume for volume in pod["volumes"] if volume["name"] == mounts[supervisor.MOUNT])
