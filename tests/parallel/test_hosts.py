"""Several processes: how they are found, and what two real ones do together."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from benchmarks.command import free_port
from pit_jax.config import HostsConfig
from pit_jax.errors import UserError
from pit_jax.parallel import hosts

PACKAGE = Path(hosts.__file__).resolve().parents[1]
TOGETHER = """
import os, signal, sys, time
from pathlib import Path
import jax, numpy as np
from jax.sharding import PartitionSpec as P, NamedSharding
from pit_jax.config import HostsConfig
from pit_jax.files import append_jsonl, write_json
from pit_jax.parallel import hosts, preemption
from pit_jax.parallel.mesh import mesh_of
from pit_jax.parallel.sharding import put

port, index, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
hosts.start(HostsConfig(coordinator=f"127.0.0.1:{port}", count=2, index=index, start_timeout=60), simulated=False)
with hosts.main_first("file"):
    assert hosts.is_main() or (folder / "made.json").exists()
    write_json(folder / "made.json", index)
rows_NX = np.arange(12).reshape(4, 3)
mesh = mesh_of(4, 1, 1)
spread = {"rows": put(rows_NX, NamedSharding(mesh, P("data"))), "name": "x"}
assert not spread["rows"].is_fully_addressable
whole = hosts.whole(spread)
assert whole["name"] == "x" and np.array_equal(whole["rows"], rows_NX)
drawn = [hosts.from_main(lambda: np.array([round + 10.0 * index, 0.1])).tolist() for round in range(4)]
assert drawn == [[float(round), 0.1] for round in range(4)], drawn
mean = jax.jit(lambda rows_NX: rows_NX.mean(), out_shardings=NamedSharding(mesh, P()))
queued = sum(mean(spread["rows"]) for _ in range(200))
assert float(queued) == 200 * 5.5, "programs that wait for each other come to an end without being waited for"
if index == 1:
    os.kill(os.getpid(), signal.SIGTERM)
asked = 0
while not preemption.noticed():
    time.sleep(0.01)
    asked += 1
    assert asked < 3000
print("together", asked, flush=True)
if index == 1:
    hosts.fail(2, "error: no such thing")
hosts.barrier("never passed")
"""


TWO_DEVICES = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
TWO_DEVICES.pop("NPROC", None)  # as on a machine of a user
ALONE = """
import jax, jax.numpy as jnp
from jax.sharding import PartitionSpec as P, NamedSharding
from pit_jax.config import HostsConfig
from pit_jax.parallel import hosts
from pit_jax.parallel.mesh import mesh_of

hosts.start(HostsConfig(), simulated=False)
mesh = mesh_of(1, 2, 1)
split, whole = NamedSharding(mesh, P("fsdp")), NamedSharding(mesh, P())
x_XX = jax.device_put(jnp.zeros((64, 64)), split)

@jax.jit
def step(x_XX, weights):
    gathered = [jnp.tanh(x_XX @ jax.lax.with_sharding_constraint(weight_XX, whole)) for weight_XX in weights]
    return sum(gathered), [weight_XX + out_XX.mean() for weight_XX, out_XX in zip(weights, gathered)]

weights = [x_XX] * 30
for _ in range(1000):
    x_XX, weights = step(x_XX, weights)
assert float(x_XX.sum()) == 0
"""


def test_collectives_of_one_process_that_run_at_once_do_not_wait_for_each_other() -> None:
    """With as many threads as two cores, XLA gave up after 40 s in three of three runs."""
    done = subprocess.run([sys.executable, "-c", ALONE], env=TWO_DEVICES, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


def test_two_processes_write_once_share_arrays_and_end_together(tmp_path: Path) -> None:
    port = free_port()
    running = [
        subprocess.Popen(
            [sys.executable, "-c", TOGETHER, str(port), str(index), str(tmp_path)],
            env=TWO_DEVICES,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    said = [process.communicate(timeout=120) for process in running]
    assert all("together" in out for out, _ in said), said
    assert said[0][0].split()[-1] == said[1][0].split()[-1], "a notice to one reaches both at the same time"
    assert [process.returncode for process in running] == [2, 2]
    assert "host 1: error: no such thing" in said[0][1]
    assert (tmp_path / "made.json").read_text() == "0\n"


LATE = """
import sys
from pit_jax.config import HostsConfig
from pit_jax.parallel import hosts

config = HostsConfig(coordinator=f"127.0.0.1:{sys.argv[1]}", count=2, index=int(sys.argv[2]), start_timeout=3)
hosts.start(config, simulated=False)
"""


@pytest.mark.parametrize("index", ["0", "1"])
def test_hosts_that_do_not_come_are_waited_for_as_long_as_asked(index: str) -> None:
    argv = [sys.executable, "-c", LATE, str(free_port()), index]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == os.EX_TEMPFAIL, done.stderr
    assert "the hosts of the run did not come together within 3 s; start the same command on every host" in done.stderr


APART = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import PartitionSpec as P, NamedSharding
from pit_jax.config import HostsConfig
from pit_jax.parallel import hosts
from pit_jax.parallel.mesh import mesh_of
from pit_jax.parallel.sharding import put, replicated
from pit_jax.training.session import Session
from pit_jax.training.state import plan_state

port, index, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
hosts.start(HostsConfig(coordinator=f"127.0.0.1:{port}", count=2, index=index, start_timeout=60), simulated=False)
mesh = mesh_of(2, 1, 1)
w_N = put(np.zeros(4, np.float32), NamedSharding(mesh, P("data")))
plan = plan_state({"w": w_N}, optax.sgd(0.1), replicated(mesh), seed=0, extras={})
session = Session(folder, plan.abstract, lambda: plan.begin({"w": w_N}, {}), rounds=9, keep=1, log_every=1,
                  show=lambda row: None, say=print)
mean = jax.jit(lambda w_N: jnp.mean(w_N), out_shardings=replicated(mesh))
try:
    with session:
        for done in session.rounds():
            if done in (1, 2):
                session.evaluated(done, {"loss": 0.0}, score=1.0)
            if done == 3 and index == 1:
                raise RuntimeError("the disk of this host is full")
            assert float(mean(session.state.params["w"])) == 0.0  # for which the hosts wait for each other
except RuntimeError as error:
    hosts.fail(1, str(error))
"""


def test_an_error_of_one_host_ends_both_behind_saved_rounds(tmp_path: Path) -> None:
    """Leaving, the one must not wait for the other, which waits for it in the next round."""
    port = free_port()
    argv = [sys.executable, "-c", APART, str(port)]
    asked: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    asked["env"] = {**os.environ, "XLA_FLAGS": ""}  # one device each
    running = [subprocess.Popen([*argv, str(index), str(tmp_path)], **asked) for index in range(2)]
    said = [process.communicate(timeout=120)[1] for process in running]
    assert [process.returncode for process in running] == [1, 1], said
    assert "host 1: the disk of this host is full" in said[0]


def test_a_run_of_one_process_is_main_and_waits_for_nobody() -> None:
    hosts.start(HostsConfig(), simulated=False)
    assert hosts.is_main() and hosts.count() == 1
    hosts.barrier("here")
    hosts.fail(2, "returns")
    hosts.finish()
    with hosts.main_first("alone"):
        assert hosts.from_main(lambda: np.arange(3)).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "config",
    [
        HostsConfig(coordinator="10.0.0.1:1234"),
        HostsConfig(coordinator="10.0.0.1", count=2, index=0),
        HostsConfig(coordinator="10.0.0.1:1234", count=2, index=2),
        HostsConfig(count=2, index=0),
    ],
)
def test_half_of_the_flags_are_refused(config: HostsConfig) -> None:
    with pytest.raises(UserError, match="asked for all three"):
        hosts.start(config, simulated=False)


def test_simulated_devices_are_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    hosts.start(HostsConfig(), simulated=True)
    with pytest.raises(UserError, match="--mesh.simulate is for one process"):
        hosts.start(HostsConfig(coordinator="h:1", count=2, index=0), simulated=True)


def test_a_device_used_too_early_is_named() -> None:
    np.asarray(__import__("jax").numpy.zeros(1))
    with pytest.raises(UserError, match="used before the hosts came together"):
        hosts.start(HostsConfig(coordinator="h:1", count=2, index=0), simulated=False)


def test_tasks_of_slurm_are_those_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert hosts.slurm_tasks() == 0, "the batch script itself runs once"
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert hosts.slurm_tasks() == 4


def test_workers_of_a_tpu_are_those_that_it_lists(
    monkeypatch: pytest.MonkeyPatch, metadata: Callable[[dict[str, str]], str]
) -> None:
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "a,b,c,d")
    assert hosts.tpu_workers() == 0, "JAX_PLATFORMS=cpu asks for no TPU"
    monkeypatch.delenv("JAX_PLATFORMS")
    assert hosts.tpu_workers() == 4
    monkeypatch.setenv("MEGASCALE_NUM_SLICES", "2")
    assert hosts.tpu_workers() == 8
    monkeypatch.delenv("TPU_WORKER_HOSTNAMES")
    assert hosts.tpu_workers() == 0, "no chips here"
    monkeypatch.setattr(hosts, "has_tpu", lambda: True)
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)
    monkeypatch.setenv("GCE_METADATA_IP", metadata({"attributes/worker-network-endpoints": "u:w0:1.1,u:w1:1.2,u:w2:1"}))
    assert hosts.tpu_workers() == 6
    monkeypatch.delenv("MEGASCALE_NUM_SLICES")
    env = "ACCELERATOR_TYPE: 'v5litepod-8'\nMEGASCALE_NUM_SLICES: '2'\n"
    one = {"attributes/worker-network-endpoints": "u:w0:1.1"}
    monkeypatch.setenv("GCE_METADATA_IP", metadata({**one, "attributes/tpu-env": env}))
    assert hosts.tpu_workers() == 2, "two slices of one worker each"
    monkeypatch.setenv("GCE_METADATA_IP", metadata(one))
    assert hosts.tpu_workers() == 1


@pytest.fixture
def metadata() -> Any:
    """metadata({path below `instance`: answer}) -> HOST:PORT of a metadata server."""
    servers: list[HTTPServer] = []

    def serve(answers: dict[str, str]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.removeprefix("/computeMetadata/v1/instance/")
                known = name in answers and self.headers["Metadata-Flavor"] == "Google"
                self.send_response(200 if known else 404)
                self.end_headers()
                self.wfile.write(answers.get(name, "").encode())

            def log_message(self, *_: Any) -> None:
                pass

        servers.append(HTTPServer(("127.0.0.1", 0), Handler))
        Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"127.0.0.1:{servers[-1].server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


# Who may touch what: `whole` for what is on devices, pit_jax/files.py for the disk.
WRITERS = {
    "files.py": "the writer",
    "paths.py": "what files.py writes into an object store, and the copies that each machine keeps",
    "digests.py": "what each machine remembers of large files",
    "model/pretrained/weights.py": "safetensors files inside whole_folder, of main alone",
    "parallel/lock.py": "who owns a workdir, by main alone",
    "training/checkpoint.py": "what main sets aside",
}
READERS = (
    "parallel/hosts.py",
    "parallel/sharding.py",
    "parallel/topologies.py",
    "contract/",
)  # one process, or no device
DEVICE = {"jax.device_get", "np.asarray", "jax.process_index", "jax.process_count"}
WRITES = re.compile(r"\.(write_text|write_bytes|unlink|rename|mkdir|rmdir)\(|open\([^)]*[\"'][wa]b?\+?[\"']|rmtree\(")


def test_devices_are_read_and_files_written_in_one_place() -> None:
    offences = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name, source = str(path.relative_to(PACKAGE)), path.read_text()
        if re.search(r"^\s*(import jax|from jax)", source, re.MULTILINE) and not name.startswith(READERS):
            calls = [ast.unparse(node.func) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
            offences += [
                f"{name} calls {call}: pit_jax.parallel.hosts.whole reads devices" for call in DEVICE & {*calls}
            ]
        if WRITES.search(source) and name not in WRITERS and not name.startswith(("data/", "contract/")):
            offences.append(f"{name} writes: pit_jax.files does")
    assert not offences
