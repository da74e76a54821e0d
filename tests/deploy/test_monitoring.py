"""Rules and dashboard: current, checked by promtool, every expression asked of a real Prometheus of a real server."""

import json
import re
import runpy
import shutil
import subprocess
import time
from pathlib import Path

import httpx
import pytest
import yaml

from service import problems
from tests.server.conftest import START_S, free_port, until
from tests.service import hostile, tiny

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus/rules.yaml"
NEEDS_PROMETHEUS = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus and promtool come with Debian's package prometheus"
)


def rules():
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def panels():
    return [
        panel for panel in json.loads((DEPLOY / "grafana/rowcast.json").read_text())["panels"] if "targets" in panel
    ]


def test_generated_files_are_current():
    files = runpy.run_path(str(DEPLOY / "generate.py"))["files"]()
    assert [path.name for path, text in files.items() if path.read_text() != text] == []


@NEEDS_PROMETHEUS
@pytest.mark.parametrize(
    "words",
    [["check", "rules", "rules.yaml"], ["check", "config", "prometheus.yaml"], ["test", "rules", "rules.test.yaml"]],
)
def test_promtool_has_nothing_to_say(words):
    done = subprocess.run(["promtool", *words], cwd=RULES.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_and_says_what_to_do():
    alerts = [rule for rule in rules() if "alert" in rule]
    tested = (RULES.parent / "rules.test.yaml").read_text()
    assert [rule["alert"] for rule in alerts if rule["alert"] not in tested] == []
    for rule in alerts:
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert set(rule["annotations"]) == {"summary", "description"}


def test_the_faults_that_spend_the_budget_are_those_of_the_server():
    faults = {code for code, status in problems.STATUS.items() if status >= 500}
    for text in (RULES.read_text(), json.dumps(panels())):
        for named in re.findall(r'code=~\\*"(internal[^"\\]*)', text):
            assert set(named.split("|")) == faults


class Prometheus:
    """A real one that scrapes and evaluates every second, and whose alerts wait no longer than that."""

    def __init__(self, folder, target):
        (folder / RULES.name).write_text(re.sub(r"(?m)^( +for): \w+", r"\1: 1s", RULES.read_text()))
        settings = yaml.safe_load((RULES.parent / "prometheus.yaml").read_text())
        settings["global"] = dict.fromkeys(("scrape_interval", "evaluation_interval"), "1s")
        settings["scrape_configs"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{target}"]
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(settings))
        listens = f"127.0.0.1:{free_port()}"
        self.process = subprocess.Popen(
            ["prometheus", f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'data'}",
             f"--web.listen-address={listens}", "--log.level=error"],
            cwd=folder,
        )  # fmt: skip
        self.client = httpx.Client(base_url=f"http://{listens}/api/v1", timeout=START_S, trust_env=False)

    def get(self, path, **asked):
        try:
            answer = self.client.get(path, params=asked)
        except httpx.TransportError:
            return None
        assert answer.status_code in {200, 503}, answer.text
        return answer.json().get("data")

    def ask(self, expression):
        return (self.get("/query", query=expression) or {"result": []})["result"]

    def alerts(self):
        return [alert for alert in (self.get("/alerts") or {"alerts": []})["alerts"] if alert["state"] == "firing"]

    def close(self):
        self.client.close()
        self.process.terminate()
        self.process.wait(START_S)


@pytest.fixture
def prometheus(start, repository, tmp_path):
    """A Prometheus, and the server that it scrapes."""
    tiny.publish(repository, "coin")
    tiny.publish(repository, "line", hostile.raises_for_large_x(), called="raising")
    server = start()
    running = Prometheus(tmp_path, server.port)
    yield running, server
    running.close()


def ask_everything(server):
    """Predictions of both models, a network that fails, a row that is wrong, a model that is not there."""
    for model in ("line", "coin"):
        rows = [{"x": (7 * place) % 13 - 6} for place in range(150)]
        assert server.client.post(f"/v1/models/{model}:predict", json={"instances": rows}).status_code == 200
    assert server.client.post("/v1/models/raising:predict", json={"instances": [[2e6]]}).status_code == 500
    assert server.ask("wide").status_code == 400
    assert server.client.post("/v1/models/nobody:predict", json={"instances": []}).status_code == 404


@NEEDS_PROMETHEUS
@pytest.mark.server
def test_every_expression_finds_something_in_a_real_prometheus_and_an_alert_fires(prometheus, repository):
    running, server = prometheus
    tiny.publish(repository, "line", model=b"no graph")  # refused, while version 1 goes on

    def is_measured():
        ask_everything(server)
        time.sleep(0.3)
        return (
            running.ask("rowcast_prediction_psi")
            and running.ask("rowcast:request_slow:ratio_rate6h")
            and [one for one in running.alerts() if one["labels"]["alertname"] == "RowcastLoadFailed"]
        )

    (alert,) = until(is_measured, what="the alert fires, and there is drift")

    known = set(running.get("/label/__name__/values"))
    expressions = {target["expr"]: panel["title"] for panel in panels() for target in panel["targets"]}
    expressions |= {rule["expr"]: rule.get("record", rule.get("alert")) for rule in rules()}
    for expression in expressions:
        named = set(re.findall(r"rowcast[a-z_]*(?::[a-z0-9_:]+)?\b(?=[{\[) ]|$)", expression))
        assert named, expression
        assert named <= known, expression
    for expression, title in expressions.items():
        filled = expression.replace("$__rate_interval", "30s")
        filled = re.sub(r"\$(job|model|version)", ".*", filled)
        if title.startswith("Rowcast"):  # an alert's finds nothing while all is well
            running.ask(filled)  # asserts that it is understood
        else:
            until(lambda filled=filled: running.ask(filled), what=f"{title}: {filled}")

    assert alert["labels"] == {
        "alertname": "RowcastLoadFailed",
        "job": "rowcast",
        "model": "line",
        "severity": "ticket",
    }
    assert alert["annotations"]["summary"] == "1 published versions of line were refused"
    assert "<error" not in json.dumps(running.alerts())
