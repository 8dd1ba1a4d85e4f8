"""A round of PPO against TRL's last PPOTrainer, and one of GRPO against TRL's GRPOTrainer, in turns.

    python -m benchmarks.trl_rounds [--work ppo grpo] [--shape 1.8M] [--prompt 64] [--times 5]

64 prompts, answers of 53 tokens that do not end; policy, anchor, reward and value model have one shape and random
weights. PPO draws one answer a prompt and passes over them four times, an update each; GRPO draws eight, with a KL to
the anchor, one update. Updates are in pieces of 16 rows on both sides; TRL has its own settings else, but for float32,
the KL, and activations that are kept. Peers live in environments of their own, .venv-trl and, for the last TRL with a
PPOTrainer, .venv-trl-ppo, made where they are not there. Tokens are those that are drawn; the floor is that of the
products of our round.
"""

from rich.console import Console

from benchmarks.limits import Limits
from benchmarks.peers import Peer, Turns, environment, table_of
from benchmarks.results import keep, parser_of
from benchmarks.rounds import operations, rounds
from benchmarks.shapes import SHAPES, peer_job, shape_of
from benchmarks.trl_trainers import TRL
from pit_jax.config import RlConfig
from pit_jax.parallel.host_memory import keep_freed_memory

PROMPTS, SAMPLES, ANSWER, PIECE = 64, 8, 53, 16


def config_of(algorithm: str, samples: int, epochs: int) -> RlConfig:
    """An update an epoch, in pieces of PIECE rows."""
    rows = PROMPTS * samples
    return RlConfig(
        policy_algorithm=algorithm,
        policy_samples=samples,
        batch_size=rows,
        epochs=epochs,
        minibatches=1,
        accumulate=rows // PIECE,
        kl_coef=0.05,
        vf_coef=0.1,
        missing_eos_penalty=0.0,
    )


WORK = {"ppo": config_of("ppo", 1, 4), "grpo": config_of("grpo", SAMPLES, 1)}
ENVIRONMENTS = {"ppo": ("trl-ppo", "trl==1.12.0", "torch>=2.6"), "grpo": TRL}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--work", nargs="+", default=list(WORK), choices=list(WORK))
    parser.add_argument("--shape", default="1.8M", choices=list(SHAPES))
    parser.add_argument("--prompt", type=int, default=64, help="tokens of each")
    parser.add_argument("--times", type=int, default=5, help="pairs of rounds")
    given = parser.parse_args()
    keep_freed_memory()
    shape, limits, turned, versions = shape_of(given.shape, "float32"), Limits.measured("float32"), {}, {}
    for work in given.work:
        config = WORK[work]
        job = {
            **peer_job(work, shape),
            "rows": config.batch_size,
            "samples": config.policy_samples,
            "prompt": given.prompt,
            "answer": ANSWER,
            "piece": PIECE,
            "epochs": config.epochs,
            "kl": config.kl_coef,
        }
        with Peer("trl_rounds_peer", job, environment(*ENVIRONMENTS[work])) as peer:
            versions[work] = peer.ready
            turns = Turns.of(rounds(shape, config, given.prompt, ANSWER), peer.seconds, given.times)
        floor = limits.floor(operations(shape, config, given.prompt, ANSWER))
        turned[work] = turns.figures(tokens=config.batch_size * ANSWER, floor=floor)
    Console().print(table_of(f"rounds, {given.shape}, prompts of {given.prompt}, in turns, n = {given.times}", turned))
    of = {"shape": given.shape, "prompt": given.prompt, "versions": versions}
    keep(given.results, "trl_rounds", {**limits.kept(), **of, **turned})


if __name__ == "__main__":
    main()
