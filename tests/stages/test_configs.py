"""The configs of the paper's sets: they parse, and hold the settings that PIT's witnesses name."""

import pytest

from pit_jax.stages import command

FOLDER = command.REPOSITORY / "configs"
NAMES = ("hh_rlhf", "tldr", "synthetic_instruct")


@pytest.mark.parametrize("name", NAMES)
def test_the_paper_s_settings(name: str) -> None:
    found = command.parse([f"--config={FOLDER / name}.py", "--stage=all"])
    assert found.sft.optimizer.learning_rate == 3e-5 and found.rm.optimizer.learning_rate == 3e-4
    assert found.rl.optimizer.learning_rate == 1e-5 and found.data.prompt_length == 512
    assert found.rl.curriculum.references == ("rejected+chosen", "policy-rl") and found.rl.curriculum.anchor == "sft"
    assert found.rm.gap_loss == "five" and found.rl.reward == "gap"
    assert found.workdir == f"runs/{name}" and len(found.data.sources) == len(found.data.rates) == 1


@pytest.mark.parametrize(("name", "pairs"), [("hh_rlhf", 160_800), ("tldr", 92_900), ("synthetic_instruct", 33_143)])
def test_steps_and_rounds_are_one_pass(name: str, pairs: int) -> None:
    found = command.parse([f"--config={FOLDER / name}.py"])
    fold = pairs * (1 - found.data.heldout_fraction) / 3
    first, second = found.rl.curriculum.rounds
    seen = {
        "sft": found.sft.policy_steps * found.sft.batch_size,
        "sft of the improver": found.sft.improver_steps * found.sft.batch_size,
        "rm": found.rm.policy_steps * found.rm.batch_size,
        "gap": found.rm.improver_steps * found.rm.batch_size,
        "rl": found.rl.policy_rounds * found.rl.batch_size,
        "first stage, two references a prompt": first * found.rl.batch_size / 2,
        "second stage": second * found.rl.batch_size,
    }
    assert seen == {stage: pytest.approx(fold, rel=0.02) for stage in seen}


@pytest.mark.parametrize("name", NAMES)
def test_a_note_says_what_to_download_and_what_is_not_known(name: str) -> None:
    text = (FOLDER / f"{name}.py").read_text()
    for word in ("Data  ", "Command  ", "Model  ", "Memory  ", "Expect  ", "[S]", "[M]", "ours"):
        assert word in text
