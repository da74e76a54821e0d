"""A container engine of the tests' own, a base image made here, this checkout's two images.

podman builds (with buildah's engine) and runs. Nothing is pulled: debootstrap makes the base. Everything lies in one
folder of some gigabytes that goes when the tests end.
"""

import ast
import importlib.metadata
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]

# How an image should be run: without privileges or a way to gain any, and only temporary files can be written.
HARDENED = (
    "--read-only",
    "--read-only-tmpfs=false",
    "--tmpfs=/tmp",
    "--tmpfs=/dev/shm",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
)
# podman's own limits are more than a host without CAP_SYS_RESOURCE may grant.
LIMITS = ("--ulimit=nofile=4096:4096", "--ulimit=nproc=4096:4096")


class Podman:
    """podman on a storage of its own in `home`; a call returns what the command prints."""

    def __init__(self, home: Path) -> None:
        options = [
            f"--runroot={home / 'run'}",
            f"--tmpdir={home / 'libpod'}",
            "--cgroup-manager=cgroupfs",  # the other one is systemd's, which a test machine may not run
        ]
        if shutil.which("runc"):  # crun before 1.9 refuses a host that mounts both versions of cgroups
            options.append("--runtime=runc")
        overlay, vfs = (
            ["podman", f"--root={home / driver}", f"--storage-driver={driver}", *options]
            for driver in ("overlay", "vfs")
        )
        # vfs copies whole file systems and works wherever root does. Where overlays work, a build takes half the time.
        overlays_work = subprocess.run([*overlay, "info"], capture_output=True, check=False).returncode == 0
        self._command = overlay if overlays_work else vfs
        (home / "build").mkdir()
        self._environment = os.environ | {"TMPDIR": str(home / "build")}

    def __call__(self, *arguments: str | Path, timeout: float = 60) -> str:
        done = self.attempt(*arguments, timeout=timeout)
        if done.returncode:
            raise AssertionError(
                f"podman {arguments[0]} exited with {done.returncode}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
            )
        return done.stdout.strip()

    def attempt(self, *arguments: str | Path, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._command, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=self._environment,
        )

    def load(self, root: Path, image: str) -> None:
        """Make an image of a folder that holds a root file system."""
        with subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE) as tar:
            subprocess.run(
                [*self._command, "import", "-", image],
                stdin=tar.stdout,
                capture_output=True,
                check=True,
                env=self._environment,
            )
        assert tar.returncode == 0

    def run(self, image: str, *arguments: str, options: tuple[str, ...] = (), timeout: float = 60) -> str:
        """What a container prints that runs to its end, exiting with 0."""
        return self("run", "--rm", "--network=none", *LIMITS, *HARDENED, *options, image, *arguments, timeout=timeout)

    @contextmanager
    def serving(self, image: str, *, options: tuple[str, ...] = ()) -> Iterator["Service"]:
        """A container of the service on a free port of this machine, as soon as it started; gone afterwards."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        begin = ("run", "--detach", "--network=host", f"--env=ROWCAST_PORT={port}", *LIMITS, *HARDENED)
        container = self(*begin, *options, image)
        try:
            yield Service(self, container, port)
        finally:
            self("rm", "--force", "--time=0", container)


@dataclass(frozen=True)
class Service:
    """A running container of the service."""

    podman: Podman
    container: str
    port: int

    def ask(self, path: str, body: Any = None) -> tuple[int, Any]:
        """The status and the JSON of an answer. POST if there is a body."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def wait_until(self, path: str) -> None:
        """Wait for `path` to answer 200."""
        end = time.monotonic() + 30
        seen: object = None
        while time.monotonic() < end:
            assert self.state() == "running", self.logs()
            try:
                seen = self.ask(path)
                if seen[0] == 200:
                    return
            except OSError as error:
                seen = error
            time.sleep(0.02)
        raise AssertionError(f"{path} did not answer 200 within 30 s, but {seen}\n{self.logs()}")

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        return self.podman.attempt("exec", self.container, *command)

    def is_healthy(self) -> bool:
        """Whether the image's own HEALTHCHECK passes, run once and now."""
        return self.podman.attempt("healthcheck", "run", self.container).returncode == 0

    def processes(self) -> list[int]:
        """The ids of its processes, as this machine sees them."""
        return [int(line) for line in self.podman("top", self.container, "hpid").splitlines()[1:]]

    def age_s(self) -> float:
        """How long ago its process was started."""
        started_ms = int(self.podman("inspect", "--format={{.State.StartedAt.UnixMilli}}", self.container))
        return time.time() - started_ms / 1000

    def state(self) -> str:
        return self.podman("inspect", "--format={{.State.Status}}", self.container)

    def logs(self) -> str:
        done = self.podman.attempt("logs", self.container)
        return done.stdout + done.stderr


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    """A folder on disk (/tmp may be memory) with a short name, because sockets lie in it."""
    for tool in ("podman", "debootstrap"):
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not installed")
    if os.geteuid() != 0:
        pytest.skip("debootstrap needs root")
    folder = Path(tempfile.mkdtemp(prefix="rowcast-", dir="/var/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def podman(home: Path) -> Iterator[Podman]:
    engine = Podman(home)
    yield engine
    engine("rm", "--all", "--force", "--time=0")
    engine("volume", "rm", "--all", "--force")


@pytest.fixture(scope="session")
def base_image(podman: Podman, home: Path) -> str:
    """Debian with its Python, or the image that CONTAINER_TEST_BASE_IMAGE names."""
    if given := os.environ.get("CONTAINER_TEST_BASE_IMAGE"):
        return given
    root = home / "base"
    packages = "--include=python3,python3-venv,ca-certificates"
    done = subprocess.run(
        ["debootstrap", "--variant=minbase", packages, "bookworm", root],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    podman.load(root, "localhost/base")
    shutil.rmtree(root)
    return "localhost/base"


@pytest.fixture(scope="session")
def service_image(podman: Podman, base_image: str, pip_as_here: list[str]) -> str:
    return _build(podman, "service", base_image, pip_as_here)


@pytest.fixture(scope="session")
def training_image(podman: Podman, base_image: str, pip_as_here: list[str]) -> str:
    return _build(podman, "training", base_image, pip_as_here)


def _build(podman: Podman, target: str, base_image: str, pip_as_here: list[str]) -> str:
    image = f"localhost/rowcast-{target}"
    podman(
        "build",
        "--isolation=chroot",  # needs no more than root does
        "--network=host",
        "--format=docker",  # OCI's format has no HEALTHCHECK
        "--layers=false",  # one copy of the file system per stage, not one per instruction
        f"--target={target}",
        f"--tag={image}",
        f"--build-arg=BASE_IMAGE={base_image}",
        *pip_as_here,
        CHECKOUT,
        timeout=1200,
    )
    return image


@pytest.fixture(scope="session")
def pip_as_here(home: Path) -> list[str]:
    """Options that let pip in a build do what pip does on this machine: its settings, and the files they point to.

    torch comes in several builds under one version. The build gets the one that these tests run with, so that a machine
    with the CPU build never downloads CUDA.
    """
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    settings = {"cert": os.environ["SSL_CERT_FILE"]} if "SSL_CERT_FILE" in os.environ else {}
    for line in sorted(listing, key=lambda line: line.startswith(":env:")):  # the environment has the last word
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        if section in ("global", "install", ":env:"):
            settings[name] = " ".join(ast.literal_eval(value).split())

    constraint = home / "torch.txt"
    constraint.write_text(f"torch=={importlib.metadata.version('torch')}\n")
    settings["constraint"] = f"{settings.get('constraint', '')} {constraint}".strip()

    written = home / "pip.conf"
    written.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
    shared = {_local_files(word) for value in settings.values() for word in value.split()} - {None}
    return [f"--volume={written}:/etc/pip.conf:ro", *(f"--volume={path}:{path}:ro" for path in sorted(shared))]


def _local_files(setting: str) -> Path | None:
    if setting.startswith("file://"):
        return Path(setting.removeprefix("file://")).parent  # an index links to files beside it
    path = Path(setting)
    return path if path.is_absolute() and path.exists() else None
