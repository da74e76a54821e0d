"""The images, built from this checkout and run for real: as confined as an operator would, asked over HTTP, stopped."""

import json
import signal
from pathlib import Path

import pytest

pytestmark = pytest.mark.container

ROWS = [[3, 4], [15, 10]]
SUMS = [7, 25]


@pytest.fixture(scope="session")
def published(podman, training_image, tmp_path_factory) -> str:
    """A volume in which the trainer's container has published `sums`, learned from a small table."""
    tables = tmp_path_factory.mktemp("tables")
    lines = [f"{a},{b},{a + b}" for a in range(20) for b in range(20)]
    (tables / "sums.csv").write_text("\n".join(["a,b,total", *lines]))
    tables.chmod(0o755)  # the image's user is not the one who runs these tests
    podman("volume", "create", "published")
    podman.run(
        training_image,
        "/tables/sums.csv",
        "--target=total",
        options=(f"--volume={tables}:/tables:ro", "--volume=published:/repository"),
        timeout=600,
    )
    return "published"


@pytest.fixture
def service(podman, service_image, published):
    with podman.serving(service_image, options=(f"--volume={published}:/repository:ro",)) as service:
        service.wait_until("/health/ready")
        yield service


def test_what_one_container_trains_the_other_serves(service):
    status, answer = service.ask("/v1/models/sums:predict", {"instances": ROWS})

    assert status == 200, answer
    assert (answer["model_name"], answer["model_version"]) == ("sums", "1")
    assert answer["predictions"] == pytest.approx(SUMS, abs=1)


def test_a_repository_can_be_baked_in_and_served_by_any_user(podman, service_image, published, tmp_path):
    (tmp_path / "Dockerfile").write_text(f"FROM {service_image}\nCOPY . /repository\n")
    repository = podman("volume", "inspect", "--format={{.Mountpoint}}", published)
    podman("build", "--layers=false", "--format=docker", f"--file={tmp_path / 'Dockerfile'}", "--tag=baked", repository)

    with podman.serving("localhost/baked", options=("--user=4242:4242",)) as service:
        service.wait_until("/health/ready")
        status, answer = service.ask("/v1/models/sums:predict", {"instances": ROWS})

    assert status == 200, answer
    assert answer["predictions"] == pytest.approx(SUMS, abs=1)


def test_the_service_image_holds_no_torch_no_installer_and_no_trainer(podman, service_image):
    names = ["torch", "pip", "setuptools", "training", "pytest", "service", "models"]
    code = f"import importlib.util, json; print(json.dumps([n for n in {names} if importlib.util.find_spec(n)]))"

    found = json.loads(podman.run(service_image, "-c", code, options=("--entrypoint=python",)))

    assert found == ["service", "models"]


def test_it_is_nobody_and_can_write_temporary_files_alone(service):
    code = """
import os
for folder in ("/", "/app", "/opt/venv", "/repository", "/etc", "/var/tmp", "/tmp"):
    print(os.getuid(), folder, os.access(folder, os.W_OK))
"""
    lines = service.execute("python", "-c", code).stdout.splitlines()

    assert lines[-1] == "10001 /tmp True"
    assert [line for line in lines[:-1] if not line.endswith("False")] == []


def test_it_is_healthy_while_it_can_answer(service):
    assert service.is_healthy()


def test_it_is_unhealthy_with_nothing_to_serve(podman, service_image):
    with podman.serving(service_image) as service:
        service.wait_until("/health/live")
        assert not service.is_healthy()


def test_it_is_unhealthy_when_nothing_listens(podman, service_image):
    with podman.serving(service_image, options=('--entrypoint=["sleep", "60"]',)) as service:
        assert not service.is_healthy()


def test_sigterm_ends_it_as_process_1_with_nothing_left(podman, service):
    processes = service.processes()
    assert service.execute("cat", "/proc/1/cmdline").stdout.split("\0")[:3] == ["python", "-m", "service"]

    podman("kill", f"--signal={signal.SIGTERM.name}", service.container)
    code = podman("wait", service.container, timeout=15)

    assert code == "0", service.logs()
    assert [number for number in processes if Path(f"/proc/{number}").exists()] == []


def test_the_service_adds_less_than_350_mb_to_its_base(podman, service_image, base_image):
    size, base = (int(podman("image", "inspect", "--format={{.Size}}", image)) for image in (service_image, base_image))

    assert (size - base) / 1e6 < 350


def test_it_is_ready_within_3_seconds_of_its_start(podman, service_image, published):
    with podman.serving(service_image, options=(f"--volume={published}:/repository:ro",)) as service:
        service.wait_until("/health/ready")
        assert service.age_s() < 3
