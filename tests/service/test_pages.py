"""What the server answers a browser: the page's files, who gets them, and the answers that only the page asks for."""

import re

import pytest

from service.pages import assets
from tests.service import tiny
from tests.service.test_routes import problem

BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
REPORT = b"<h1>line</h1><script>alert(1)</script>"


def test_a_browser_gets_the_page_and_everybody_else_json(client):
    assert client.get("/", headers=BROWSER).headers["content-type"] == "text/html; charset=utf-8"
    assert client.get("/").json()["name"] == "rowcast"
    assert client.get("/", headers={"accept": "*/*"}).json()["name"] == "rowcast"


def test_every_file_that_the_page_names_is_there_and_no_other(client):
    named, looked_at = {"index.html", "card.html"}, set()
    while new := named - looked_at:
        looked_at |= new
        for name in new:
            answer = client.get(f"/page/{name}")
            assert answer.status_code == 200, name
            named |= set(re.findall(r'"(?:\./|page/|)([a-z]+\.(?:js|css|svg|html))"', answer.text))
    assert named == assets.names()


@pytest.mark.parametrize("path", ["/", "/docs", "/page/card.html"])
def test_a_page_runs_no_script_but_the_servers_files(client, path):
    answer = client.get(path, headers=BROWSER)
    policy = dict(part.strip().partition(" ")[::2] for part in answer.headers["content-security-policy"].split(";"))
    assert (policy["default-src"], policy["script-src"]) == ("'none'", "'self'")
    assert "<script>" not in answer.text
    assert " style=" not in answer.text
    assert "//" not in answer.text.replace("<!doctype", "")  # nothing from elsewhere


def test_no_file_of_the_page_names_another_server():
    for name in assets.names():
        text = (assets.FOLDER / name).read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text
        assert "https:" not in text


def test_no_script_of_the_page_makes_markup_from_text():
    for path in assets.FOLDER.glob("*.js"):
        text = path.read_text()
        for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
            assert sink not in text, path.name


def test_who_has_a_file_already_is_told_so(client):
    first = client.get("/page/style.css")
    again = client.get("/page/style.css", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert client.get("/page/style.css", headers={"if-none-match": '"of-another-release"'}).status_code == 200


@pytest.mark.parametrize("name", ["nope.js", "..%2Fassets.py", "../routes.py", "__init__.py", "."])
def test_nothing_else_is_given_out(client, name):
    problem(client.get(f"/page/{name}"), 404, "not_found")


def test_with_a_key_set_the_files_need_none_and_what_they_ask_for_does(client, key):
    for path in ("/", "/docs", *(f"/page/{name}" for name in assets.names())):
        answer = client.get(path, headers=BROWSER)
        assert answer.status_code == 200, path
        assert key not in answer.text
    for path in ("/page/overview", "/page/nope.js", "/v1/models/line/report", "/openapi.json"):
        problem(client.get(path, headers=BROWSER), 401, "unauthorized")
    problem(client.get("/"), 401, "unauthorized")


def test_turned_off_there_is_no_page(client, front, key):
    front.settings.page = False
    problem(client.get("/", headers=BROWSER), 401, "unauthorized")
    mine = {"x-api-key": key}
    assert client.get("/", headers=BROWSER | mine).json()["name"] == "rowcast"
    for path in ("/docs", "/page/app.js", "/page/overview"):
        problem(client.get(path, headers=BROWSER | mine), 404, "not_found")


def test_the_overview_tells_versions_labels_scores_and_refusals(client, front):
    front.catalog.failures = {
        "line/3": "line/3: model.onnx is not the file its manifest describes; publish it again",
        "gone/1": "gone/1: manifest.json is not JSON; publish it again",
        "pair/labels.json": "pair: labels.json is not JSON",
    }
    models = {model["name"]: model for model in client.get("/page/overview").json()["models"]}

    assert models["line"]["versions"] == [
        {"number": "1", "is_live": True, "reason": None},
        {"number": "2", "is_live": True, "reason": None},
        {"number": "3", "is_live": False, "reason": front.catalog.failures["line/3"]},
    ]
    assert models["line"]["labels"] == {"canary": "2", "stable": "1"}
    assert models["line"]["score"] == {"part": "test", "metric": "rmse", "value": 0.5}
    assert models["pair"]["labels_refused"] == "pair: labels.json is not JSON"
    assert models["gone"]["answers"] is None
    assert models["flowers"]["classes"] == 3


@pytest.fixture
def reported(front, tmp_path):
    """`line` with a report, instead of the one without."""
    version = tiny.publish(tmp_path, "line", report={"index.html": REPORT, "other.html": b"other"})
    front.catalog.versions = {"line": {1: version}, "pair": {1: tiny.publish(tmp_path, "pair")}}
    return version


@pytest.mark.parametrize("path", ["/v1/models/line/report", "/v1/models/line/versions/1/report"])
def test_a_report_is_given_as_it_was_published_and_may_do_nothing(client, reported, path):
    answer = client.get(path)
    assert (answer.status_code, answer.content) == (200, reported.read("report/index.html"))
    assert answer.headers["content-security-policy"].startswith("sandbox; default-src 'none'")


def test_a_version_without_a_report_says_so(client, reported):
    assert reported
    problem(client.get("/v1/models/pair/report"), 404, "not_found")
    problem(client.get("/v1/models/nobody/report"), 404, "unknown_model")


def test_a_report_that_was_changed_is_not_shown(client, front, reported):
    (reported.folder / "report/index.html").write_bytes(REPORT[::-1])
    assert "publish it again" in problem(client.get("/v1/models/line/report"), 500, "bad_version")["error"]
    front.catalog.unreadable = "there: Input/output error"  # so it may not have changed at all
    assert "cannot be read now" in problem(client.get("/v1/models/line/report"), 503, "not_ready")["error"]
