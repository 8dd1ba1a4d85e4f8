"""launch/tpu_startup.sh against stand-ins of the programs that it calls as root."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

PYTHON = """#!/bin/bash
if [ "$1" = -c ]; then echo 12; elif [ "$2" = venv ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; fi
echo "python ${*/#$HERE\\//}" >>"$HERE/calls"
[ ! -e "$HERE/broken" ] || [ "$3" != install ]
"""
CURL = """#!/bin/bash
name=${4##*/pit-}
[ -e "$HERE/attributes/$name" ] && cat "$HERE/attributes/$name"
"""
NOTED = '#!/bin/bash\necho "${0##*/} ${*/#$HERE\\//}" >>"$HERE/calls"\n'


@dataclass(frozen=True)
class Machine:
    """A folder in the place of the machine's disk."""

    folder: Path
    script: Path

    def boot(self, *words: str) -> int:
        (self.folder / "calls").unlink(missing_ok=True)
        paths = {"HERE": "", "PIT_HOME": "opt", "PIT_MOUNT": "mount", "PIT_LOCKFILE": "lock"}
        environment = {name: str(self.folder / path) for name, path in paths.items()}
        environment["PATH"] = f"{self.folder / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin"
        return subprocess.run(["bash", str(self.script), *words], env=environment, capture_output=True).returncode

    @property
    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().replace(f"{self.folder}/", "").splitlines()

    @property
    def state(self) -> str:
        return (self.folder / "opt" / "state").read_text().strip()


@pytest.fixture
def machine(tmp_path: Path, repository: Path) -> Machine:
    programs = {name: NOTED for name in ("apt-get", "systemctl", "mount", "add-apt-repository")}
    programs |= {"python3.12": PYTHON, "curl": CURL, "mountpoint": "#!/bin/bash\nexit 1\n"}
    (tmp_path / "bin").mkdir()
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "attributes").mkdir()
    for name in ("setup", "constraints-py311", "constraints-py312"):
        (tmp_path / "attributes" / name).write_text(f"{name}\n")
    (tmp_path / "lock").touch()
    return Machine(tmp_path, repository / "launch" / "tpu_startup.sh")


def test_the_first_boot_installs_the_pinned_environment(machine: Machine) -> None:
    assert machine.boot() == 0 and machine.state == "ready"
    assert not (machine.folder / "lock").exists()
    calls = machine.calls
    assert calls[0] == "systemctl disable --now unattended-upgrades.service apt-daily.timer apt-daily-upgrade.timer"
    assert any("remove -y unattended-upgrades" in call for call in calls)
    assert [call for call in calls if " -m pip install" in call] == [
        "python -m pip install --quiet --disable-pip-version-check -c opt/source/constraints-py312.txt "
        "opt/source[tpu,gcs]"
    ]
    assert (machine.folder / "opt" / "source" / "setup.py").read_text() == "setup\n"
    assert not any(call.startswith("mount") for call in calls)


def test_another_boot_installs_nothing_and_other_pins_install_again(machine: Machine) -> None:
    machine.boot()
    assert machine.boot() == 0 and not any("pip" in call for call in machine.calls)
    (machine.folder / "attributes" / "constraints-py312").write_text("jax==1\n")
    assert machine.boot() == 0 and any("pip install" in call for call in machine.calls)


def test_the_code_that_is_shipped_may_ask_for_others(machine: Machine) -> None:
    machine.boot()
    code = machine.folder / "code"
    code.mkdir()
    for name in ("setup.py", "constraints-py311.txt", "constraints-py312.txt"):
        (code / name).write_text("newer\n")
    assert machine.boot(str(code)) == 0 and machine.state == "ready"
    assert any("-c opt/source/constraints-py312.txt opt/source[tpu,gcs]" in call for call in machine.calls)
    assert (machine.folder / "opt" / "source" / "setup.py").read_text() == "newer\n"
    assert len(list(code.iterdir())) == 3, "nothing of root's beside the code"


def test_a_share_is_mounted_where_there_is_one(machine: Machine) -> None:
    (machine.folder / "attributes" / "nfs").write_text("10.0.0.2:/share")
    assert machine.boot() == 0
    assert "mount -t nfs -o hard 10.0.0.2:/share mount" in machine.calls


def test_a_failed_installation_is_told_and_tried_again(machine: Machine) -> None:
    (machine.folder / "broken").touch()
    assert machine.boot() != 0 and machine.state == "failed"
    (machine.folder / "broken").unlink()
    assert machine.boot() == 0 and machine.state == "ready"


def test_setup_py_is_enough_for_pip_to_know_what_to_install(machine: Machine, repository: Path) -> None:
    """The package that the script makes around setup.py can be built."""
    (machine.folder / "attributes" / "setup").write_text((repository / "setup.py").read_text())
    assert machine.boot() == 0
    command = [sys.executable, "setup.py", "--quiet", "--fullname"]
    done = subprocess.run(command, cwd=machine.folder / "opt" / "source", capture_output=True, text=True)
    assert done.stdout == "pit_jax-0\n", done.stderr
