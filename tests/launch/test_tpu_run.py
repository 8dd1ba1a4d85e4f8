"""The command as a person runs it: a fresh process, from a checkout, without the package installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Runs launch/tpu_run.py with a pipeline that prints, and without the checkout on the path of the interpreter.
STUBBED = """
import runpy, sys, types
stub = types.ModuleType("pit_jax.recipes.pipeline")
def run(config):
    import jax
    jax.jit(lambda x: x + 1)(1.0)
    print("RUN", config.stage, config.rl.kl_coef, jax.device_count(), jax.devices()[0].platform)
    print("kept in", jax.config.jax_enable_compilation_cache and jax.config.jax_compilation_cache_dir)
stub.run = run
sys.modules["pit_jax.recipes.pipeline"] = stub
script = sys.argv.pop(1)
sys.argv[0] = script
sys.path[:] = [p for p in sys.path if p not in ("", ".")]
runpy.run_path(script, run_name="__main__")
"""


def environment() -> dict[str, str]:
    """That of a user: no simulated devices."""
    return {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_PLATFORMS")}


def launch(repository: Path, *flags: str, code: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    script = str(repository / "launch" / "tpu_run.py")
    command = [sys.executable, *(["-c", code] if code else []), script, *flags]
    folder = cwd or repository
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=120)


def test_a_stage_runs_from_the_root_of_the_checkout(repository: Path) -> None:
    done = launch(repository, "--stage=rl", "--rl.kl-coef=0.1", "--mesh.simulate=1", code=STUBBED)
    assert done.returncode == 0, done.stderr
    assert "RUN rl 0.1 1 cpu" in done.stdout
    assert "rl.kl_coef" in done.stdout


def test_simulated_devices_exist_before_jax_starts(repository: Path, tmp_path: Path) -> None:
    done = launch(repository, "--mesh.simulate=8", code=STUBBED, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "8 cpu" in done.stdout


@pytest.mark.parametrize(("devices", "kept"), [(1, True), (2, False)])
def test_programs_of_several_cpu_devices_are_not_kept(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, devices: int, kept: bool
) -> None:
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    done = launch(repository, f"--mesh.simulate={devices}", f"--workdir={tmp_path}", code=STUBBED)
    assert done.returncode == 0, done.stderr
    assert f"kept in {tmp_path / 'compiled' if kept else False}" in done.stdout
    assert bool(list(tmp_path.glob("compiled/*"))) == kept, "small ones too"


def test_it_needs_no_installation(repository: Path, tmp_path: Path) -> None:
    uninstalled = "import sys\nsys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]\n"
    uninstalled += "import importlib.util\nassert importlib.util.find_spec('pit_jax') is None\n"
    done = launch(repository, "--mesh.simulate=1", code=uninstalled + STUBBED, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (
            "--rl.kl-coeff=1",
            "error: unknown flag --rl.kl-coeff; did you mean --rl.kl-coef?; see --help for every flag\n",
        ),
        (
            "--stage=rll",
            "error: --stage: unknown 'rll'; did you mean rl?; known: data, sft, rm, rl, dpo, spa, improve, answer, "
            "judge, evaluate, paper, spa-tables, export, plan, all\n",
        ),
    ],
)
def test_a_typo_costs_one_line_and_code_2(repository: Path, flag: str, message: str) -> None:
    done = launch(repository, flag)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", message)


HELP = """
import runpy, sys
sys.argv = [sys.argv[1], "--help"]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as stop:
    heavy = {"tensorflow", "transformers", "jax", "jaxlib", "seqio", "orbax", "matplotlib"}
    print("HEAVY", sorted(heavy & set(sys.modules)), stop.code)
"""


def test_help_is_light(repository: Path) -> None:
    """No heavy package is imported, which takes seconds: less than one of the processor, at the best of three."""
    spent = []
    for _ in range(3):
        before = os.times()
        done = launch(repository, code=HELP)
        after = os.times()
        assert "HEAVY [] 0" in done.stdout, done.stderr
        assert "--rl.kl-coef" in done.stdout
        spent.append(after.children_user + after.children_system - before.children_user - before.children_system)
        if spent[-1] < 1.0:
            break
    assert min(spent) < 1.0


def test_whoever_has_read_enough_of_the_help_ends_it_quietly(repository: Path) -> None:
    """`--help | head -1`: one line, no traceback, and a code of success."""
    command = [sys.executable, str(repository / "launch" / "tpu_run.py"), "--help"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=repository, env=environment(), text=True, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline().startswith("usage: pit-jax")
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=60) == 0


def test_nobody_reads_at_all(repository: Path) -> None:
    """The reader is gone before the first line is written."""
    script = str(repository / "launch" / "tpu_run.py")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, script, "--help"],
        cwd=repository,
        env=environment(),
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
