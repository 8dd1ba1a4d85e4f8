"""Config files by path and by name; those of the paper's sets hold the settings that PIT's witnesses name."""

from pathlib import Path

import pytest

from pit_jax import flags
from pit_jax.config import Config
from pit_jax.shipped import CONFIGS, load_config, names, shipped

NAMES = ("hh_rlhf", "tldr", "synthetic_instruct")


def test_shipped_configs_are_known_by_name_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert {"tiny", "notes", "forkme", *NAMES} <= set(names()) and "__init__" not in names()
    for name in names():
        assert shipped(name) == load_config(f"{name}.py") == load_config(f"configs/{name}.py")
        assert load_config(name) == load_config(CONFIGS / f"{name}.py")


def test_a_file_goes_before_a_shipped_config_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.py").write_text("from pit_jax.config import Config\n\ndef get_config(): return Config(seed=7)\n")
    assert load_config("tiny.py") == Config(seed=7) != load_config("tiny")


@pytest.mark.parametrize("name", ["mine/tiny.py", "../tiny.py", "/configs/tiny.py", "tiny.yaml", "tinny", "."])
def test_a_path_to_nothing_is_no_shipped_config(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as told:
        load_config(name)
    assert f"--config={name}: no such file" in str(told.value) and "synthetic_instruct, tiny, tldr" in str(told.value)
    assert ("did you mean tiny?" in str(told.value)) == (name != ".")


@pytest.mark.parametrize("name", NAMES)
def test_the_paper_s_settings(name: str) -> None:
    found = flags.parse([f"--config={CONFIGS / name}.py", "--stage=all"])
    assert found.sft.optimizer.learning_rate == 3e-5 and found.rm.optimizer.learning_rate == 3e-4
    assert found.rl.optimizer.learning_rate == 1e-5 and found.data.prompt_length == 512
    assert found.rl.curriculum.references == ("rejected+chosen", "policy-rl") and found.rl.curriculum.anchor == "sft"
    assert found.rm.gap_loss == "five" and found.rl.reward == "gap"
    assert found.workdir == f"runs/{name}" and len(found.data.sources) == len(found.data.rates) == 1


@pytest.mark.parametrize(("name", "pairs"), [("hh_rlhf", 160_800), ("tldr", 92_900), ("synthetic_instruct", 33_143)])
def test_steps_and_rounds_are_one_pass(name: str, pairs: int) -> None:
    found = flags.parse([f"--config={CONFIGS / name}.py"])
    fold = pairs * (1 - found.data.heldout_fraction) / 3
    first, second = found.rl.curriculum.rounds
    seen = {
        "sft": found.sft.policy_steps * found.sft.batch_size,
        "sft of the improver": found.sft.improver_steps * found.sft.batch_size,
        "rm": found.rm.policy_steps * found.rm.batch_size,
        "gap": found.rm.improver_steps * found.rm.batch_size,
        "rl": found.rl.policy_rounds * found.rl.batch_size,
        "first phase, two references a prompt": first * found.rl.batch_size / 2,
        "second phase": second * found.rl.batch_size,
    }
    assert seen == {stage: pytest.approx(fold, rel=0.02) for stage in seen}


@pytest.mark.parametrize("name", NAMES)
def test_a_note_says_what_to_download_and_what_is_not_known(name: str) -> None:
    text = (CONFIGS / f"{name}.py").read_text()
    for word in ("Data  ", "Command  ", "Model  ", "Memory  ", "Expect  ", "[S]", "[M]", "ours"):
        assert word in text
