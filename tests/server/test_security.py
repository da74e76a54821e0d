"""Keys, limits, TLS, logs and traces of real servers, asked by real clients."""

import http.server
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import httpx
import pytest
import trustme
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.server.conftest import CHECKOUT, START_S, free_port, until

pytestmark = pytest.mark.server

LINE = "/v1/models/line:predict"
BODY = {"instances": [[3]]}


@pytest.fixture
def make_key(tmp_path):
    """Makes a key by the command, adds it to `file`, and gives it."""

    def make_key(name, *arguments):
        command = [sys.executable, "-m", "service", "key", name, *arguments]
        made = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
        old = make_key.file.read_text() if make_key.file.exists() else ""
        replace(make_key.file, old + made.stdout)
        return made.stderr.splitlines()[0]

    make_key.file = tmp_path / "keys.toml"
    return make_key


def replace(file, text):
    """Write a file of keys as operators should: nobody reads a part of it."""
    beside = file.with_suffix(".new")
    beside.write_text(text)
    beside.rename(file)


def status(server, key, path=LINE):
    headers = {"x-api-key": key}
    if path == LINE:
        return server.client.post(path, json=BODY, headers=headers).status_code
    return server.client.get(path, headers=headers).status_code


def test_keys_come_and_go_without_a_restart_in_every_process(start, make_key):
    shop, prometheus = make_key("shop"), make_key("prometheus", "--scope", "metrics")
    server = start(api_keys_file=make_key.file, api_processes=2)
    assert [status(server, key) for key in (shop, prometheus, "wrong")] == [200, 403, 401]
    assert [status(server, key, "/metrics") for key in (shop, prometheus)] == [403, 200]

    late = make_key("late")

    def everywhere(key, expected):
        for _ in range(6):  # new connections, so that both processes are asked
            server.connect_anew()
            if status(server, key) != expected:
                return False
        return True

    until(lambda: everywhere(late, 200), what="a new key")
    replace(make_key.file, make_key.file.read_text().replace('name = "late"', "name = 7"))
    until(lambda: "the keys that were read before stay" in server.said(), what="a wrong file is told")
    assert everywhere(late, 200)
    replace(make_key.file, "")
    until(lambda: everywhere(late, 401), what="no key is left")
    assert not any(key in server.said() for key in (shop, prometheus, late))


def test_a_wrong_file_stops_the_start_in_one_sentence(start, tmp_path):
    (tmp_path / "keys.toml").write_text("[[key]]\nname = 1\n")
    server = start(wait=False, api_keys_file=tmp_path / "keys.toml")
    assert server.ended() == 2
    assert "key 1, name: input should be a valid string" in server.said()
    assert "Traceback" not in server.said()
    server = start(wait=False, tls_certificate=tmp_path / "nothing.pem")
    assert server.ended() == 2
    assert "nothing.pem' cannot be read: No such file or directory" in server.said()


def test_a_process_that_starts_while_the_file_is_wrong_is_tried_again(start, make_key):
    shop, scraper = make_key("shop"), make_key("prometheus", "--scope", "metrics")
    server = start(api_keys_file=make_key.file, api_processes=2)
    good = make_key.file.read_text()
    replace(make_key.file, "[[key")
    os.kill(server.apis[0], 9)
    until(lambda: "died with exit status 3" in server.said(), what="the process cannot start")
    server.connect_anew()
    assert status(server, shop) == 200
    down = re.compile(r'^rowcast_processes_down{kind="api"} 1.0$', re.MULTILINE)
    until(lambda: down.search(server.client.get("/metrics", headers={"x-api-key": scraper}).text), what="it is missed")
    replace(make_key.file, good)
    until(lambda: len(server.apis) == 2, what="the process is back")
    assert "is no TOML" in server.said()
    assert "Traceback" not in server.said()


@pytest.mark.parametrize("api_processes", [1, 3])
def test_a_limit_holds_over_all_processes_together(start, api_processes):
    server = start(api_processes=api_processes, rate_limit=0.001, rate_burst=40)
    statuses = Counter()
    for _ in range(20):
        with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=START_S) as client:
            statuses.update(client.post(LINE, json=BODY).status_code for _ in range(5))
    assert statuses == {200: 40, 429: 60}
    assert server.is_ready()


def test_no_keys_on_a_public_address_are_told(start):
    assert "there are no API keys" in start(host="0.0.0.0").said()
    assert "there are no API keys" not in start(host="0.0.0.0", api_key="a long secret").said()
    assert "there are no API keys" not in start(host="127.0.0.1").said()


# --------------------------------------------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def certificate(authority, tmp_path):
    path = tmp_path / "server.pem"
    authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(path))
    return path


def trusting(authority, **options):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    for name, value in options.items():
        setattr(context, name, value)
    return context


def speak_tls(server, context):
    """Ask over TLS from now on."""
    server.client.close()
    server.client = httpx.Client(base_url=f"https://127.0.0.1:{server.port}", verify=context, timeout=START_S)


def shown(server, context):
    """The serial number of the certificate that a new connection is shown."""
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=START_S) as wire,
        context.wrap_socket(wire, server_hostname="localhost") as tls,
    ):
        return tls.getpeercert()["serialNumber"]


def test_predictions_over_tls_and_a_renewed_certificate_for_new_connections(start, authority, certificate, tmp_path):
    server = start(wait=False, tls_certificate=certificate, api_processes=2)
    context = trusting(authority)
    speak_tls(server, context)
    until(server.is_ready, what="ready")
    assert server.answers()
    rows = [[x / 7] for x in range(20_000)]
    many = server.client.post(LINE, json={"instances": rows}).json()["predictions"]
    assert many == pytest.approx([2 * x + 1 for (x,) in rows], rel=1e-6)
    old = shown(server, context)

    beside = tmp_path / "renewed.pem"
    authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(beside))
    beside.rename(certificate)
    until(lambda: all(shown(server, context) != old for _ in range(8)), what="the renewed certificate")
    assert server.answers(), "the connection of before goes on"
    assert server.said().count("the certificate was read again") == 2
    server.process.terminate()
    assert server.ended() == 0


def test_what_is_no_tls_or_too_old_is_refused_and_harms_nobody(start, authority, certificate):
    server = start(wait=False, tls_certificate=certificate, tls_minimum="1.3")
    speak_tls(server, trusting(authority))
    until(server.is_ready, what="ready")
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{server.port}/health/live")
    with pytest.raises(ssl.SSLError):
        shown(server, trusting(authority, maximum_version=ssl.TLSVersion.TLSv1_2))
    for garbage in (b"", b"\0" * 1000, b"\x16\x03\x01\x02\x00\x01", os.urandom(4000)):
        with socket.create_connection(("127.0.0.1", server.port), timeout=START_S) as wire:
            wire.sendall(garbage)
    assert server.answers()
    assert "Traceback" not in server.said()


def test_with_an_authority_only_its_clients_are_answered_and_probes_use_the_second_port(
    start, authority, certificate, tmp_path
):
    ca, port = tmp_path / "ca.pem", free_port()
    authority.cert_pem.write_to_path(str(ca))
    server = start(wait=False, tls_certificate=certificate, tls_client_ca=ca, metrics_port=port)
    probe = f"http://127.0.0.1:{port}/health/ready"

    def is_ready():
        try:
            return client.get(probe).status_code == 200
        except httpx.TransportError:
            return False

    with httpx.Client() as client:
        until(is_ready, what="ready")
    speak_tls(server, trusting(authority))
    with pytest.raises(httpx.TransportError):
        server.ask(3)
    strangers = trusting(authority)
    trustme.CA().issue_cert("me@example.org").configure_cert(strangers)
    speak_tls(server, strangers)
    with pytest.raises(httpx.TransportError):
        server.ask(3)
    ours = trusting(authority)
    authority.issue_cert("me@example.org").configure_cert(ours)
    speak_tls(server, ours)
    assert server.answers()


# --------------------------------------------------------------------------------------------------- metrics


def test_the_second_port_has_metrics_and_probes_and_nothing_else(start, make_key):
    key, shop = make_key("prometheus", "--scope", "metrics"), make_key("shop")
    port = free_port()
    server = start(api_keys_file=make_key.file, metrics_port=port, api_processes=2)
    assert status(server, shop) == 200
    headers = {"x-api-key": key}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=START_S) as client:
        assert "rowcast_requests_total{" in client.get("/metrics", headers=headers).text
        assert client.get("/metrics").status_code == 401
        assert client.get("/health/live").status_code == 200
        for path in ("/", "/v1/models", "/openapi.json", "/metrics/", "/info"):
            assert client.get(path, headers={"x-api-key": shop}).status_code == 404
        assert client.post(LINE, json=BODY, headers={"x-api-key": shop}).status_code == 404
    victim = server.apis[0]
    os.kill(victim, 9)
    until(lambda: len(server.apis) == 2 and victim not in server.apis, what="the process is replaced")
    for _ in range(6):
        assert httpx.get(f"http://127.0.0.1:{port}/health/live", timeout=START_S).status_code == 200
    server.process.terminate()
    assert server.ended() == 0
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{port}/health/live")


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_on_all_addresses_of_ipv6_both_ports_speak_ipv4_too(start):
    """The image's health check asks 127.0.0.1."""
    metrics_port = free_port()
    server = start(host="::", metrics_port=metrics_port)
    for port in (server.port, metrics_port):
        for address in ("127.0.0.1", "[::1]"):
            probe = f"http://{address}:{port}/health/ready"
            assert httpx.get(probe, timeout=START_S, trust_env=False).status_code == 200


def test_a_taken_second_port_stops_the_start(start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = start(wait=False, metrics_port=port)
        assert server.ended() == 3
    assert f"port {port} of 127.0.0.1 cannot be listened on" in server.said()
    assert "set ROWCAST_METRICS_PORT" in server.said()


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="Debian's package prometheus")
def test_a_real_prometheus_scrapes_with_its_key_and_answers(start, make_key, tmp_path):
    key, shop = make_key("prometheus", "--scope", "metrics"), make_key("shop")
    metrics_port, port = free_port(), free_port()
    server = start(api_keys_file=make_key.file, metrics_port=metrics_port, api_processes=2)
    (tmp_path / "key").write_text(key)
    (tmp_path / "prometheus.yml").write_text(
        f"""
global: {{scrape_interval: 500ms, scrape_timeout: 500ms}}
scrape_configs:
  - job_name: rowcast
    authorization: {{credentials_file: {tmp_path}/key}}
    static_configs: [{{targets: ["127.0.0.1:{metrics_port}"]}}]
"""
    )
    command = ["prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/tsdb"]
    with (tmp_path / "prometheus.log").open("wb") as log:
        prometheus = subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log, cwd=tmp_path
        )
    client = httpx.Client()

    def value(query):
        """The value of a query that has one; None while it has none."""
        try:
            answer = client.get(f"http://127.0.0.1:{port}/api/v1/query", params={"query": query}).json()
        except (httpx.TransportError, ValueError):  # it is starting
            return None
        found = answer.get("data", {}).get("result", [])
        return float(found[0]["value"][1]) if found else None

    try:
        until(lambda: value('up{job="rowcast"}') == 1, what="the first scrape")
        for x in range(30):
            headers = {"x-api-key": shop}
            assert server.client.post(LINE, json={"instances": [[x]] * 2}, headers=headers).status_code == 200
        assert server.client.post(LINE, json={"instances": [["x"]]}, headers={"x-api-key": shop}).status_code == 400
        until(lambda: value('sum(rowcast_requests_total{model="line",code="ok"})') == 30, what="the answers")
        until(lambda: value('sum(rowcast_requests_total{code="bad_row"})') == 1, what="the refusal")
        until(lambda: value("sum(rowcast_rows_total)") == 60, what="their rows")
        until(lambda: value("rowcast_ready") == 1, what="it is ready")

        def is_positive(query):
            server.client.post(LINE, json=BODY, headers={"x-api-key": shop})
            return (value(query) or 0) > 0

        until(lambda: is_positive("sum(rate(rowcast_rows_total[30s]))"), what="a rate")
        p99 = "histogram_quantile(0.99, sum by (le) (rate(rowcast_request_duration_seconds_bucket[30s])))"
        until(lambda: is_positive(p99), what="a quantile")
    finally:
        client.close()
        prometheus.terminate()
        prometheus.wait(START_S)


# --------------------------------------------------------------------------------------------------- logs, traces


def test_the_log_is_json_and_each_request_has_its_line(start):
    server = start(log_format="json", access_log=1, api_key="a long secret", api_processes=2)
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    headers = {
        "authorization": "Bearer a long secret",
        "x-request-id": "mine",
        "traceparent": f"00-{trace_id}-b7ad6b7169203331-01",
    }
    answer = server.client.post(LINE, json=BODY, headers=headers)
    assert answer.headers["traceparent"].startswith(f"00-{trace_id}-")
    assert server.client.post(f"{LINE}%0A{{}}?key=secret", json=BODY).status_code == 401
    os.kill(server.workers[0], 9)
    until(lambda: "inference worker 0 died" in server.said(), what="the watch tells")
    server.process.terminate()
    assert server.ended() == 0
    lines = [json.loads(line) for line in server.said().splitlines()]
    assert all({"time", "level", "logger"} <= line.keys() for line in lines)
    (mine,) = (line for line in lines if line.get("request_id") == "mine")
    assert (mine["client"], mine["model"], mine["rows"], mine["trace_id"]) == ("default", "line", 1, trace_id)
    assert {"read_s", "encode_s", "compute_s", "write_s", "seconds"} <= mine.keys()
    (refused,) = (line for line in lines if line.get("code") == "unauthorized")
    assert refused["path"] == f"{LINE}\n{{}}"
    assert "secret" not in server.said()


class Collector(http.server.BaseHTTPRequestHandler):
    """An OpenTelemetry collector that keeps the spans it gets."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = next(one.value.string_value for one in resource.resource.attributes if one.key == "service.name")
            self.server.spans += [(service, span) for scope in resource.scope_spans for span in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def collector():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        server.spans = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_spans_of_every_stage_reach_a_collector(start, collector, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "prices")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
    server = start(tracing="otlp")
    trace_id, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    answer = server.client.post(LINE, json=BODY, headers={"traceparent": f"00-{trace_id}-{parent}-01"})
    unsampled = server.client.post(LINE, json=BODY, headers={"traceparent": f"00-{'ab' * 16}-{parent}-00"})
    bad = server.client.post(LINE, json={"instances": [["x"]]})
    until(lambda: len(collector.spans) >= 8, what="the spans")

    assert {service for service, _ in collector.spans} == {"prices"}
    spans = [span for _, span in collector.spans if span.trace_id.hex() == trace_id]
    (request,) = (span for span in spans if span.name == "POST predict line")
    assert request.parent_span_id.hex() == parent
    assert answer.headers["traceparent"] == f"00-{trace_id}-{request.span_id.hex()}-01"
    stages = {span.name: span for span in spans if span is not request}
    assert list(stages) == ["read", "encode", "queue", "compute", "write"]
    assert all(span.parent_span_id == request.span_id for span in stages.values())
    moments = [request.start_time_unix_nano]
    for span in stages.values():
        assert span.start_time_unix_nano == moments[-1]
        moments.append(span.end_time_unix_nano)
    assert moments == sorted(moments)
    assert moments[-1] <= request.end_time_unix_nano

    assert has_protobuf(server.apis[-1])
    (refused,) = (span for _, span in collector.spans if span.span_id.hex() in bad.headers["traceparent"])
    assert {one.key: one.value.string_value for one in refused.attributes}["error.type"] == "bad_row"
    assert refused.parent_span_id == b""
    assert unsampled.headers["traceparent"].endswith("-00")
    assert "ab" * 16 not in {span.trace_id.hex() for _, span in collector.spans}
    server.process.terminate()
    assert server.ended() == 0


def test_a_collector_that_is_gone_harms_nobody(start, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    server = start(tracing="otlp", drain_s=4)  # the exporter would try again for seven
    assert all(server.answers(x) for x in range(20))
    server.process.terminate()
    assert server.ended() == 0


def has_protobuf(pid):
    """Whether a process has loaded what the exporter writes spans with; it has a part that is no Python."""
    return "google/_upb" in Path(f"/proc/{pid}/maps").read_text()


def test_nothing_of_opentelemetrys_exporter_is_imported_where_nobody_asks(start):
    server = start()
    assert server.answers()
    assert not any(has_protobuf(pid) for pid in [server.main, *server.apis, *server.workers])
