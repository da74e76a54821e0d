"""Two servers behind nginx by deploy/nginx/rowcast.conf: neither a restart nor a new version fails a request."""

import shutil
import signal
import subprocess
from types import SimpleNamespace

import httpx
import pytest

from tests.deploy.test_monitoring import DEPLOY
from tests.faults.accounting import Load
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
    """Starts nginx before two servers; what comes back has its port, as a server has."""
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
        return SimpleNamespace(port=port)

    yield start
    for process in running:
        process.send_signal(signal.SIGQUIT)
        assert process.wait(START_S) == 0


def answers(address):
    try:
        return httpx.get(address, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def test_a_new_version_and_a_restart_of_each_server_fail_no_request(start, balanced, repository):
    servers = [start(), start()]
    with Load(balanced(*servers), rate=1000, shift=lambda version: version - 1) as load:
        load.goes_on(count=100)
        tiny.publish(repository, "line", shift=1.0)
        until(lambda: all(server.ask(3).json()["predictions"][0] == 3 * 2 + 2 for server in servers), what="version 2")
        for place, old in enumerate(servers):
            old.process.send_signal(signal.SIGTERM)
            assert old.ended() == 0, old.said()
            load.goes_on("2")  # from the other server
            servers[place] = start(wait=False, port=old.port)
            until(servers[place].is_ready)
            until(lambda seen=servers[place]: seen.metric("rowcast_requests_total") > 20, what="its share of the load")
    assert not load.books.failed


def test_requests_that_every_server_refuses_take_none_of_them_away_from_others(start, balanced, repository):
    tiny.publish(repository, "line", model=b"no graph", called="broken")
    with httpx.Client(base_url=f"http://127.0.0.1:{balanced(start(), start()).port}", trust_env=False) as client:
        for _ in range(10):
            refused = client.post("/v1/models/broken:predict", json={"instances": [[3]]})
            assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
            assert "retry-after" in refused.headers
            assert client.post("/v1/models/line:predict", json={"instances": [[3]]}).status_code == 200


def test_the_servers_know_each_client_by_the_address_that_nginx_saw(start, balanced):
    """Also one that says it is somebody else, by which it would have a rate limit of its own for every request."""
    server = start(trusted_proxies="127.0.0.1", access_log=1)
    balancer = balanced(server, start())
    with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.2"), trust_env=False) as client:
        for place in range(4):
            client.get(f"http://127.0.0.1:{balancer.port}/v1/models", headers={"x-forwarded-for": f"10.1.1.{place}"})
    until(lambda: "/v1/models" in server.said(), what="a line of the access log")
    assert "client=127.0.0.2" in server.said()
