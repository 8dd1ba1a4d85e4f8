"""docs/howto/pod.md is true: its commands run as they stand, against stand-ins of the clouds' own programs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import yaml

from launch.machines import GENERATIONS
from tests.launch.conftest import Cloud

# A person waits half a minute between two looks.
HASTE = "import time\nreal = time.sleep\ntime.sleep = lambda seconds: real(min(seconds, 0.2))\n"
NOTED = """#!/bin/bash
[ -p /dev/stdin ] && cat >/dev/null
echo "${0##*/} $*" >>"$STAND_IN/others"
"""


def test_the_commands_of_the_page_run(cloud: Cloud, checkout: Path, repository: Path) -> None:
    page = (repository / "docs" / "howto" / "pod.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL)
    for name in ("docker", "kubectl", "sbatch", "ssh-add", "ssh-agent"):
        (cloud.folder / "bin" / name).write_text(NOTED)
        (cloud.folder / "bin" / name).chmod(0o755)
    (cloud.folder / "sitecustomize.py").write_text(HASTE)
    folder = cloud.folder / "checkout"
    subprocess.run(["git", "clone", "-q", str(checkout), str(folder)], check=True)
    cloud.set(workers=4)
    environment = os.environ | {
        "PATH": os.pathsep.join(
            [os.environ["PATH"].split(os.pathsep)[0], str(Path(sys.executable).parent), os.environ["PATH"]]
        ),
        "PYTHONPATH": str(cloud.folder),
    }
    command = ["bash", "-euo", "pipefail", "-c", "\n".join(blocks)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the run has ended" in done.stdout and "pit: deleted" in done.stdout
    assert [len(cloud.ran(f"pit-w-{worker}")) for worker in range(4)] == [1] * 4
    assert sorted(path.name for path in (folder / "runs" / "logs").iterdir()) == [
        f"pit-w-{worker}" for worker in range(4)
    ]
    others = (cloud.folder / "others").read_text()
    assert "docker build -f launch/Dockerfile" in others and "sbatch --nodes=2 launch/slurm.sh" in others
    assert (
        f"image: us-west4-docker.pkg.dev/my-project/pit/pit:{others.split('pit/pit:')[1].split()[0]}\n"
        in (folder / "runs" / "pit.yaml").read_text()
    )


def test_the_page_s_images_are_those_of_the_launcher(repository: Path) -> None:
    page = (repository / "docs" / "howto" / "pod.md").read_text()
    rows = re.findall(r"^\| (.+?) \| `(\S+)` \|$", page, flags=re.MULTILINE)
    told = {name: image for names, image in rows for name in re.findall(r"v5litepod|v\d\w*", names) if name != "v5e"}
    assert told == {name: generation.runtime for name, generation in GENERATIONS.items()}


def test_the_cluster_of_the_page_is_the_manifest_s(repository: Path) -> None:
    page = (repository / "docs" / "howto" / "pod.md").read_text()
    text = (repository / "launch" / "jobset.yaml").read_text()
    manifest = yaml.safe_load(text)
    (slices,) = manifest["spec"]["replicatedJobs"]
    job = slices["template"]["spec"]
    pod = job["template"]["spec"]
    (pool,) = re.findall(r"^gcloud container node-pools create .*", page, flags=re.MULTILINE)
    chosen = pod["nodeSelector"]
    machines = {"tpu-v5-lite-podslice": "ct5lp-hightpu"}[chosen["cloud.google.com/gke-tpu-accelerator"]]
    chips = pod["containers"][0]["resources"]["limits"]["google.com/tpu"]
    assert {
        f"--machine-type={machines}-{chips}t",
        f"--tpu-topology={chosen['cloud.google.com/gke-tpu-topology']}",
        f"--num-nodes={job['completions']}",
    } <= set(pool.split())
    assert pod["containers"][0]["envFrom"][0]["secretRef"]["name"] == "pit-secrets"
    assert "kubectl create secret generic pit-secrets --from-env-file=FILE" in page
    named = f"job-name={manifest['metadata']['name']}-{slices['name']}-0"
    logs = f"kubectl logs -f --tail=-1 -l batch.kubernetes.io/{named},batch.kubernetes.io/job-completion-index=0\n"
    assert logs in page and logs in text
    assert page.count("kubectl logs") == text.count("kubectl logs") == 1
    assert "--mesh.slices=2" in page and "--mesh.slices=2" in text


def test_the_page_makes_a_cluster_before_it_is_used(repository: Path) -> None:
    page = (repository / "docs" / "howto" / "pod.md").read_text()
    steps = (
        "gcloud container clusters create pit ",
        "gcloud container node-pools create slice-0 --cluster=pit ",
        "gcloud container clusters get-credentials pit ",
        "kubectl apply --server-side -f https://github.com/kubernetes-sigs/jobset/releases/",
        "gcloud artifacts repositories create pit --location=us-west4 --repository-format=docker",
        "gcloud auth configure-docker us-west4-docker.pkg.dev",
        "docker push us-west4-docker.pkg.dev/my-project/pit/pit:",
        "kubectl apply -f runs/pit.yaml",
    )
    places = [page.find(step) for step in steps]
    assert -1 not in places and places == sorted(places)
