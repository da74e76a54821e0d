"""Two servers behind nginx by deploy/nginx/rowcast.conf: neither a restart nor a new version fails a request."""

import shutil
import signal
import subprocess
import threading

import httpx
import pytest

from tests.deploy.test_monitoring import DEPLOY
from tests.server.conftest import START_S, free_port, until
from tests.service import tiny

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx comes with Debian's package nginx-light"),
]

AROUND = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/rowcast.conf;
}}
"""


@pytest.fixture
def balanced(tmp_path):
    """Starts nginx before two servers; its address comes back."""
    running = []

    def start(*servers):
        port = free_port()
        shipped = (DEPLOY / "nginx/rowcast.conf").read_text().replace("listen 80;", f"listen 127.0.0.1:{port};")
        for place, server in enumerate(servers, start=1):
            assert f"rowcast-{place}:8000" in shipped
            shipped = shipped.replace(f"rowcast-{place}:8000", f"127.0.0.1:{server.port}")
        (tmp_path / "rowcast.conf").write_text(shipped)
        (tmp_path / "nginx.conf").write_text(AROUND.format(folder=tmp_path))
        running.append(
            subprocess.Popen(["nginx", "-e", "stderr", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")])
        )
        until(lambda: answers(f"http://127.0.0.1:{port}/health/ready"), what="nginx")
        return f"http://127.0.0.1:{port}"

    yield start
    for process in running:
        process.send_signal(signal.SIGQUIT)
        assert process.wait(START_S) == 0


def answers(address):
    try:
        return httpx.get(address, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


class Load:
    """Clients that ask all the time and note what they are told."""

    def __init__(self, address, clients=4) -> None:
        self.versions = {"1": 0, "2": 0}
        self.failed = []
        self._address, self._end = address, threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=[number]) for number in range(clients)]
        for thread in self._threads:
            thread.start()

    def _ask(self, number):
        with httpx.Client(base_url=self._address, timeout=START_S, trust_env=False) as client:
            while not self._end.wait(0.005):
                try:
                    answer = client.post("/v1/models/line:predict", json={"instances": [{"x": number}]})
                    said = answer.json()
                    shift = {"1": 0, "2": 1}[said["model_version"]]
                    assert said["predictions"] == [2 * number + 1 + shift], answer.text
                except Exception as error:  # noqa: BLE001 - whatever it is, it is a failure
                    self.failed.append(f"{error!r}: {answer.text if 'answer' in locals() else ''}")
                else:
                    self.versions[said["model_version"]] += 1

    def end(self):
        self._end.set()
        for thread in self._threads:
            thread.join()


def test_a_new_version_and_a_restart_of_each_server_fail_no_request(start, balanced, repository):
    servers = [start(), start()]
    load = Load(balanced(*servers))
    try:
        until(lambda: load.versions["1"] > 100)
        tiny.publish(repository, "line", shift=1.0)
        until(lambda: all(server.ask(3).json()["predictions"][0] == 3 * 2 + 2 for server in servers), what="version 2")
        for place, old in enumerate(servers):
            before = load.versions["2"]
            old.process.send_signal(signal.SIGTERM)
            assert old.ended() == 0, old.said()
            until(lambda enough=before + 50: load.versions["2"] > enough, what="answers of the other server")
            servers[place] = start(wait=False, port=old.port)
            until(servers[place].is_ready)
            until(lambda seen=servers[place]: seen.metric("rowcast_requests_total") > 20, what="its share of the load")
    finally:
        load.end()
    assert load.failed == []
    assert min(load.versions.values()) > 100
