"""The processes of one run, one a host: how they start together, which one writes, and how they end together."""

import contextlib
import functools
import json
import os
import re
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax._src import distributed, xla_bridge  # the coordination service has no public handle
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from pit_jax.config import HostsConfig
from pit_jax.errors import Preempted, UserError
from pit_jax.files import leave_writing_to_main
from pit_jax.terminal import tell

FAILURES = "pit_jax/failures"
GRACE = 3.0  # seconds in which main may fail for the same reason, and say it itself
CPU_THREADS = 64  # of XLA on a host, at least: see enough_threads
WAIT = 7 * 24 * 3600  # seconds: preparing data may take long, and a host that died ends the others anyway
TOGETHER = "start the same command on every host, with one --hosts.coordinator that all reach"


class _Processes:
    """What this process knows of itself among the others."""

    index, count, barriers, messages = 0, 1, 0, 0
    failing = False


def start(config: HostsConfig, *, simulated: bool) -> None:
    """Join the other processes of the run, if it has any; to be called before JAX is asked for a device.

    Several processes are what --hosts.* says, the tasks of a SLURM step, or the workers that a TPU lists. Raises
    UserError for flags that do not fit. Ends the process with code 75 (run it again) when the others do not come
    within hosts.start_timeout: a host that is late is started again, as after a pre-emption.
    """
    named = named_processes(config)
    if simulated and named:
        raise UserError("--mesh.simulate is for one process: leave it out beside --hosts.*, or leave those out")
    alone = simulated or (not named and slurm_tasks() < 2 and tpu_workers() < 2)
    if not alone or cpu_devices() > 1:
        enough_threads()
    if alone:
        return
    if xla_bridge.backends_are_initialized():
        raise UserError(
            "a JAX device was used before the hosts came together, by a config or fork while it was imported; move "
            "what computes into a function"
        )
    giving_up = threading.Timer(config.start_timeout, _give_up, [config.start_timeout])
    giving_up.daemon = True
    giving_up.start()
    try:
        jax.distributed.initialize(
            **named,
            initialization_timeout=WAIT,  # JAX's own time-out aborts the process, without a word about the others
            heartbeat_timeout_seconds=config.heartbeat,
            shutdown_timeout_seconds=config.start_timeout,
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the hosts of the run cannot come together ({_first_line(error)}); {TOGETHER}") from error
    finally:
        giving_up.cancel()
    state = distributed.global_state
    _Processes.index, _Processes.count = state.process_id, state.num_processes
    if not is_main():
        leave_writing_to_main()
    threading.Thread(target=_watch_failures, daemon=True, name="failures of other hosts").start()


def _give_up(seconds: int) -> None:
    tell(
        f"\nerror: the hosts of the run did not come together within {seconds} s; {TOGETHER}, or raise "
        "--hosts.start-timeout",
        error=True,
    )
    os._exit(os.EX_TEMPFAIL)  # the main thread waits in a call of JAX's that nothing else ends


def cpu_devices() -> int:
    """How many CPU devices this process was told to have, told without starting them."""
    flag = re.search(r"xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    return max(1, jax.config.values["jax_num_cpu_devices"], int(flag[1]) if flag else 1)


def spans_cpus() -> bool:
    """Whether the programs of this run wait for each other on several CPU devices, its own or those of other hosts."""
    return cpu_devices() > 1 or (_Processes.count > 1 and jax.default_backend() == "cpu")


def enough_threads() -> None:
    """Give XLA's CPU devices threads enough for all collectives that wait at the same time.

    It takes as many threads as there are cores. Collectives that wait for other devices or hosts, of one program or of
    queued ones, can hold all of them, so that what they wait for never runs (jax < 0.12).
    """
    os.environ.setdefault("NPROC", str(max(CPU_THREADS, os.cpu_count() or 0)))


def named_processes(config: HostsConfig) -> dict[str, Any]:
    """What --hosts.* says, as arguments of jax.distributed.initialize; {} where it says nothing. Raises UserError."""
    if not config.coordinator and config.count == 0 and config.index == -1:
        return {}
    found = f"--hosts.coordinator={config.coordinator or 'HOST:PORT'} --hosts.count={config.count}"
    if not re.fullmatch(r"\S+:\d+", config.coordinator) or config.count < 1 or not 0 <= config.index < config.count:
        raise UserError(
            f"{found} --hosts.index={config.index}: asked for all three, HOST:PORT of host 0, the number of hosts, and "
            "this host's own number below it"
        )
    return {
        "coordinator_address": config.coordinator,
        "num_processes": config.count,
        "process_id": config.index,
        "cluster_detection_method": "deactivate",
    }


def slurm_tasks() -> int:
    """Tasks of the SLURM step that this process is part of; 0 outside of `srun`."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", 0)) if "SLURM_PROCID" in os.environ else 0


def tpu_workers() -> int:
    """Workers of the TPU that this machine is part of, over all its slices; 0 where there is none.

    GKE names them and the number of slices in the environment, a TPU VM in its metadata server.
    """
    if os.environ.get("JAX_PLATFORMS", "tpu").split(",")[0] != "tpu":
        return 0
    listed, slices = os.environ.get("TPU_WORKER_HOSTNAMES"), os.environ.get("MEGASCALE_NUM_SLICES")
    if not listed and "TPU_SKIP_MDS_QUERY" not in os.environ and has_tpu():
        listed = metadata("attributes/worker-network-endpoints")
        found = re.search(r"^MEGASCALE_NUM_SLICES:\s*'?(\d+)", metadata("attributes/tpu-env") or "", re.MULTILINE)
        slices = slices or (found[1] if found else None)
    return int(slices or 1) * len(listed.split(",")) if listed else 0


def metadata(name: str) -> str | None:
    """What Google Cloud's metadata server says of this machine; None where there is no server, or it knows nothing."""
    host = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")  # as JAX itself reads it
    url = f"http://{host}/computeMetadata/v1/instance/{name}"
    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            text: str = answer.read().decode().strip()
            return text
    except urllib.error.HTTPError as error:
        error.close()
        return None
    except (urllib.error.URLError, TimeoutError):
        return None


def has_tpu() -> bool:
    """Whether this machine has TPU chips, told without starting them."""
    devices = Path("/dev")
    return any(devices.glob("accel[0-9]*")) or any(devices.glob("vfio/[0-9]*"))


def is_main() -> bool:
    """Whether this process is the one that writes, prints and prepares."""
    return _Processes.index == 0


def index() -> int:
    """This process among those of the run, from 0."""
    return _Processes.index


def count() -> int:
    """Processes of the run."""
    return _Processes.count


def barrier(name: str) -> None:
    """Wait until every process is here; all must pass their barriers in the same order."""
    if _Processes.count > 1:
        _Processes.barriers += 1
        _client().wait_at_barrier(f"{name}-{_Processes.barriers}", timeout_in_ms=1000 * WAIT)


@contextlib.contextmanager
def main_first(name: str) -> Iterator[None]:
    """What is inside is done by main, then by the others, who find on disk what main has left there."""
    if not is_main():
        barrier(name)
    yield
    if is_main():
        barrier(name)


def whole(tree: Any) -> Any:
    """A tree with its JAX arrays whole and on this host, as NumPy; every process must ask.

    Rows that other hosts hold are gathered: for what is small beside the parameters, or one of their leaves at a time.
    """
    return jax.tree.map(_whole, tree)


def _whole(x: Any) -> Any:
    if not isinstance(x, jax.Array):
        return x
    if x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    assert isinstance(x.sharding, NamedSharding)
    return np.asarray(_gather(x.sharding.mesh)(x))


@functools.cache
def _gather(mesh: Mesh | AbstractMesh) -> Any:
    return jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec()))


def from_main(make: Callable[[], np.ndarray]) -> np.ndarray:
    """make() of main, on every host: of what only one may ask for, such as a judge that is paid."""
    if _Processes.count == 1:
        return make()
    _Processes.messages += 1
    key = f"pit_jax/from main/{_Processes.messages}"
    if is_main():
        _client().key_value_set(key, json.dumps(make().tolist()))
    told = np.array(json.loads(_client().blocking_key_value_get(key, 1000 * WAIT)))
    barrier("told")
    if is_main():
        _client().key_value_delete(key)
    return told


def ends_alone(error: type[BaseException] | None) -> bool:
    """Whether what ends a block on this host lets the others go on, so that nothing may be waited for with them."""
    return _Processes.count > 1 and error is not None and not issubclass(error, Preempted)


def all_well(well: bool) -> bool:
    """Whether it is true on every host; all must ask."""
    if _Processes.count == 1:
        return well
    _Processes.messages += 1
    key = f"pit_jax/well/{_Processes.messages}"
    _client().key_value_set(f"{key}/{_Processes.index}", "yes" if well else "no")
    barrier("said")
    said = [value for _, value in _client().key_value_dir_get(key)]
    barrier("heard")
    if is_main():
        _client().key_value_delete(key)
    return said == ["yes"] * _Processes.count


def fail(code: int, message: str) -> None:
    """End all processes of the run with exit code `code`, `message` shown by main; returns where there is but one."""
    if _Processes.count == 1:
        return
    _Processes.failing = True
    _client().key_value_set(f"{FAILURES}/{_Processes.index}", f"{code} {message}", allow_overwrite=True)
    time.sleep(2 * GRACE if is_main() else GRACE)  # the others read it; main serves it to them
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # an orderly end would wait for hosts that wait for this one


def finish() -> None:
    """Leave the run when every process has come to its end."""
    if _Processes.count > 1:
        barrier("end")


def _watch_failures() -> None:
    """End this process when another one has failed."""
    while True:
        time.sleep(1.0)
        try:
            failures = _client().key_value_dir_get(FAILURES)
        except RuntimeError:  # the service has gone: the run is over, or JAX ends this process
            return
        if failures:
            time.sleep(GRACE)
            if _Processes.failing:
                return
            key, value = sorted(failures)[0]
            code, _, message = value.partition(" ")
            if is_main():
                tell(f"host {key.rpartition('/')[2]}: {message}", error=True)
            os._exit(int(code))


def _client() -> Any:
    return distributed.global_state.client


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]
