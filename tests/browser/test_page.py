"""The web page in a real Chromium, against a real server."""

import csv
import io
import json
import re
import subprocess
import sys

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.browser import hostile
from tests.server.conftest import START_S, until
from tests.service import tiny

ANSWER = ".answer output"
SEEN = "2024-05-31T00:00"  # as the form writes it
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
VIEWS = [
    "/",
    "/#/models/flowers",
    "/#/models/hostile",
    "/#/models/pair?tab=table",
    "/#/models/line?tab=features",
    "/docs",
]


def field(page, name):
    return page.get_by_label(name, exact=True)


# --------------------------------------------------------------------------------------------------- the models


def test_the_models_are_there_with_versions_labels_and_why_one_was_refused(tab):
    page = tab.open()
    line = page.locator("tbody", has=page.get_by_role("link", name="line", exact=True))
    expect(line.get_by_role("link", name="1 stable")).to_be_visible()
    expect(line.get_by_role("link", name="2 canary")).to_be_visible()
    expect(line.get_by_text("3 refused")).to_be_visible()
    expect(line.locator(".reasons")).to_contain_text("line/3")
    expect(page.locator("#state")).to_have_text("Ready")


def test_a_new_version_shows_up_by_itself_and_traffic_is_counted(tab, site):
    page = tab.open()
    expect(page.get_by_role("link", name="coin", exact=True)).to_be_visible()
    root = site.root
    tiny.publish(root, "coin")
    coin = page.locator("tbody", has=page.get_by_role("link", name="coin", exact=True))
    asked_per_s, median = page.locator("[data-rate-of=line]"), page.locator(".traffic .figure").nth(1)
    until(
        lambda: site.answers() and asked_per_s.inner_text() not in {"\N{EN DASH}", "0"},
        what="a rate while requests come",
    )
    expect(median).to_contain_text("s")  # in a unit of seconds
    expect(coin.get_by_role("link", name="2")).to_be_visible()


def test_a_model_is_found_by_its_target(tab):
    page = tab.open()
    page.get_by_label("Find a model").fill("species")
    expect(page.get_by_role("link", name="flowers")).to_be_visible()
    expect(page.get_by_role("link", name="coin", exact=True)).to_be_hidden()


def test_a_version_is_chosen_by_number_or_label(tab):
    page = tab.open("/#/models/line")
    expect(page.locator("h1")).to_have_text("lineversion 1")
    page.get_by_label("Version").select_option("canary (2)")
    expect(page.locator("h1")).to_have_text("lineversion 2")
    assert page.url.endswith("#/models/line/labels/canary")
    page.go_back()
    expect(page.locator("h1")).to_have_text("lineversion 1")


def test_who_leaves_while_a_look_is_under_way_is_not_told_that_the_server_is_not_ready(tab):
    page = tab.open()
    expect(page.locator("#state")).to_have_text("Ready")
    page.route("**/page/overview", lambda _: None)  # an answer that takes its time
    with page.expect_request("**/page/overview"):
        pass  # of the next look, within five seconds
    with page.expect_event("requestfailed"):
        page.get_by_role("link", name="coin", exact=True).click()
    expect(page.get_by_text("Loading…")).to_be_visible()
    assert page.locator("#state").inner_text() == "Ready"


def test_traffic_begins_anew_with_a_server_that_does(tab):
    page = tab.page
    page.clock.install()
    counts = iter([1000, 1100, 5, 6])
    page.route("**/metrics", lambda route: route.fulfill(body=f'rowcast_requests_total{{code="ok"}} {next(counts)}\n'))
    tab.open()
    asked_per_s = page.locator(".traffic .figure").first
    expect(page.get_by_role("link", name="coin", exact=True)).to_be_visible()
    for figure in (re.compile(r"^\d"), "\N{EN DASH}", re.compile(r"^\d")):
        page.clock.run_for(2000)
        expect(asked_per_s).to_have_text(figure)


def test_a_key_that_may_not_see_the_traffic_does_not_ask_for_it_all_the_time(tab):
    tab.expected = ["status of 403"]
    page = tab.page
    page.clock.install()
    page.route("**/metrics", lambda route: route.fulfill(status=403, json={"error": "it may not", "code": "forbidden"}))
    tab.open()
    expect(page.get_by_text("No traffic is shown: it may not")).to_be_visible()
    page.clock.run_for(9000)
    expect(page.get_by_role("link", name="coin", exact=True)).to_be_visible()
    assert len([url for url in tab.asked if url.endswith("/metrics")]) == 1


# --------------------------------------------------------------------------------------------------- one row


def test_it_predicts_as_one_types(tab):
    page = tab.open("/#/models/flowers")
    expect(page.locator(ANSWER)).to_have_text("rose")
    field(page, "length cm").fill("9")
    expect(page.locator(ANSWER)).to_have_text("tulip")
    expect(page.get_by_role("row", name="tulip")).to_contain_text("98.2 %")
    field(page, "length, in the range of the training rows").press("ArrowLeft")
    expect(field(page, "length cm")).to_have_value("8")


def test_a_missing_value_is_asked_for_as_null(tab):
    page = tab.open("/#/models/flowers")
    with page.expect_request(lambda request: "[null,2," in (request.post_data or "")):
        field(page, "width cm").fill("")
    expect(page.locator(ANSWER)).to_have_text("tulip")
    page.get_by_role("button", name="All missing").click()
    expect(page.locator(ANSWER)).to_have_text("daisy")
    page.get_by_role("button", name="Example row").click()
    expect(page.locator(ANSWER)).to_have_text("rose")
    expect(field(page, "color")).to_have_value("0")


def test_what_is_no_number_is_said_beside_its_field_and_not_sent(tab):
    page = tab.open("/#/models/line")
    expect(page.locator(ANSWER)).to_have_text("7")
    expect(page.get_by_role("application")).to_be_visible()  # the curve, which is asked for after the answer
    before = len(tab.asked)
    field(page, "x cm").fill("four")
    expect(page.get_by_text("Not a number")).to_be_visible()
    expect(field(page, "x cm")).to_have_attribute("aria-invalid", "true")
    assert [url for url in tab.asked[before:] if url.endswith(":predict")] == []
    field(page, "x cm").fill("40")
    expect(page.get_by_text("Outside what training saw")).to_be_visible()
    expect(page.locator(ANSWER)).to_have_text("81")


def test_what_the_server_refuses_is_said_beside_its_field(tab):
    tab.expected = ["status of 400"]
    page = tab.open("/#/models/line")
    field(page, "x cm").fill("1e300")
    expect(page.locator(".field .said")).to_contain_text("must")
    expect(page.get_by_role("alert")).to_be_visible()


def test_a_category_that_training_did_not_see_may_be_typed(tab):
    page = tab.open("/#/models/flowers")
    field(page, "color").select_option("another…")
    with page.expect_request(lambda request: '"green"' in (request.post_data or "")):
        page.get_by_label("color, another text").fill("green")
    expect(page.get_by_text("Counts as unknown")).to_be_visible()


def test_a_server_that_is_gone_and_a_model_that_is_not_there_are_said(tab):
    tab.expected = ["ERR_INTERNET_DISCONNECTED", "status of 404"]
    page = tab.open("/#/models/line")
    expect(page.locator(ANSWER)).to_have_text("7")
    page.context.set_offline(True)
    field(page, "x cm").fill("4")
    expect(page.get_by_text("the server cannot be reached").first).to_be_visible()
    page.context.set_offline(False)
    tab.open("/#/models/%3Cimg%20src=x%20onerror=window.hacked=1%3E")
    expect(page.get_by_role("alert")).to_contain_text("is not served here")


# --------------------------------------------------------------------------------------------------- the curve


def test_the_curve_is_the_models_and_a_point_goes_back_into_the_row(tab):
    page = tab.open("/#/models/line")
    plot = page.get_by_role("application")
    plot.focus()
    plot.press("ArrowRight")
    expect(page.locator(".reading")).to_have_text("0.2   1.4")  # 2x + 1
    for _ in range(12):
        plot.press("Shift+ArrowRight")
    expect(page.locator(".reading")).to_have_text("10   21")
    plot.press("Enter")
    expect(field(page, "x cm")).to_have_value("10")
    expect(page.locator(ANSWER)).to_have_text("21")


def test_many_classes_are_no_surface_unless_that_is_asked_for(tab, site, monkeypatch):
    monkeypatch.setitem(tiny.ROWS, "many", tiny.ROWS["pair"])
    monkeypatch.setitem(tiny.SCHEMAS, "many", tiny.SCHEMAS["pair"])
    monkeypatch.setitem(tiny.WEIGHTS, "many", ([[1.0] * 41, [0.0] * 41], [float(place) for place in range(41)]))
    monkeypatch.setitem(tiny.TASKS, "many", "multiclass")
    monkeypatch.setitem(tiny.TARGETS, "many", ("which",))
    monkeypatch.setitem(tiny.CLASSES, "many", tuple(f"class {place}" for place in range(41)))
    version = tiny.publish(site.root, "many")
    until(lambda: site.client.get("/v1/models/many").status_code == 200, what=str(version))
    page = tab.open("/#/models/many")
    expect(page.locator(".series").first).to_be_attached()
    page.get_by_label("and", exact=True).select_option("b")
    expect(page.locator(".cells rect")).to_have_count(51 * 51)


def test_a_value_keeps_the_digits_that_matter_in_its_range(tab):
    page = tab.open()
    for value, ends, digits, kept in (
        (1.23456789, [0, 10], 5, 1.2346),
        (1_700_000_003.51, [1_700_000_000, 1_700_000_010.5], 5, 1_700_000_003.51),
        (0, [0, 0], 5, 0),
    ):
        script = f"async () => (await import('/page/show.js')).within({value}, {ends}, {digits})"
        assert page.evaluate(script) == kept


def test_two_features_make_a_surface(tab):
    page = tab.open("/#/models/pair")
    expect(page.locator(".cells rect")).to_have_count(51 * 51)
    plot = page.get_by_role("application")
    plot.press("ArrowRight")
    expect(page.locator(".reading")).to_have_text("0.4   0   0.4")  # a + b
    page.get_by_label("Target").select_option("difference")
    expect(page.locator(".legend")).to_contain_text("difference -20")  # drawn anew: the sum goes from -20, too
    plot = page.get_by_role("application")
    box = plot.locator(".cells").bounding_box()
    plot.locator("svg").click(position={"x": box["x"] - plot.bounding_box()["x"] + 2, "y": 14})
    expect(field(page, "a cm")).to_have_value("-10")
    expect(field(page, "b cm")).to_have_value("10")


@pytest.mark.parametrize("feature", ["color", "wild", "width"])
def test_every_kind_of_feature_has_a_curve(tab, feature):
    page = tab.open("/#/models/flowers")
    page.get_by_label("Vary").select_option(feature)
    expect(page.locator(".titles text").first).to_have_text(f"{feature} (cm)" if feature == "width" else feature)
    expect(page.locator(".series")).to_have_count(3)
    page.get_by_label("and", exact=True).select_option("length")
    expect(page.locator(".cells rect").first).to_be_attached()


# --------------------------------------------------------------------------------------------------- the request


@pytest.mark.parametrize("model", ["flowers", "hostile"])
def test_the_requests_shown_are_requests(tab, model, tmp_path):
    page = tab.open(f"/#/models/{model}")
    expect(page.locator(ANSWER)).to_be_visible()
    answers = []
    for language in ("curl", "Python"):
        page.get_by_text(language, exact=True).click()
        code = page.locator("section.code pre").inner_text()
        assert code.isascii()  # nothing in it can turn the text around
        command = ["bash", "-c", code] if language == "curl" else [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=START_S, check=True)
        answers.append(done.stdout)
    page.get_by_text("JavaScript", exact=True).click()
    code = page.locator("section.code pre").inner_text()
    body = json.loads(page.evaluate(code.split("body: ")[1].split(",\n")[0]))  # as JavaScript reads it
    assert body == {"instances": [hostile.ROW if model == "hostile" else tiny.ROWS["flowers"] | {"seen": SEEN}]}
    assert json.loads(answers[0])["predictions"] == [page.locator(ANSWER).inner_text()]
    assert answers[1].strip() == str(json.loads(answers[0]))
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------------------------- a table


def upload(page, text):
    file = {"name": "rows.csv", "mimeType": "text/csv", "buffer": text if isinstance(text, bytes) else text.encode()}
    page.get_by_label("Choose a CSV file").set_input_files(file)


def test_a_table_comes_back_with_its_predictions(tab):
    page = tab.open("/#/models/flowers?tab=table")
    lines = [["seen", "note", "width", "length", "color", "wild"]]
    lines += [["2024-05-31", 'a "note", and\nmore', str(row % 7), "3.5", "red", "true"] for row in range(4500)]
    lines.append(["null", "", "NA", "", "", ""])
    text = io.StringIO()
    csv.writer(text).writerows(lines)

    upload(page, "\ufeff" + text.getvalue())

    expect(page.get_by_text("4,501 rows answered.")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "rows-predictions.csv"
    got = list(csv.reader(io.StringIO(download.value.path().read_text(), newline="")))
    heads = ["predicted species", "probability of rose", "probability of tulip", "probability of daisy"]
    assert got[0] == lines[0] + heads
    assert [line[:6] for line in got[1:]] == lines[1:]
    assert [line[6] for line in got[1:8]] == ["tulip"] * 4 + ["rose"] * 3
    assert got[-1][6] == "daisy"
    assert float(got[1][7]) + float(got[1][8]) + float(got[1][9]) == pytest.approx(1, abs=1e-6)


def test_a_row_of_one_missing_value_is_a_row(tab):
    page = tab.open("/#/models/line?tab=table")
    upload(page, 'x;note\n1;a\n"";b\n')
    expect(page.get_by_text("2 rows answered.")).to_be_visible()
    expect(page.locator("td.predicted")).to_have_text(["3", "1"])


def test_a_table_waits_for_a_server_that_starts_anew_or_a_key_that_asked_too_often(tab):
    tab.expected = ["status of 429", "ERR_FAILED"]
    page = tab.open("/#/models/line?tab=table")
    answers = iter(["abort", "fulfill"])

    def answer(route):
        match next(answers, "continue"):
            case "abort":
                route.abort()
            case "fulfill":
                route.fulfill(status=429, json={"error": "too often"})
            case _:
                route.continue_()

    page.route("**:predict", answer)
    upload(page, "x\n1\n2\n")
    expect(page.locator("td.predicted")).to_have_text(["3", "5"])


@pytest.mark.parametrize("text", ["note| x ||\na|1||\n", '"a,b";" x";;\r\n1;1;;\r\n'])
def test_a_table_is_read_as_the_trainer_reads_it(tab, text):
    page = tab.open("/#/models/line?tab=table")
    upload(page, text)
    expect(page.locator("td.predicted")).to_have_text(["3"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x,stra\u00dfe\n1,a\n".encode("latin-1"), "The file is not UTF-8; save it as CSV in UTF-8"),
        ("x\n1\nfour\n", "Row 2 of the file, column 'x': must be a number, got 'four'"),
        ("y\n1\n", "The file has no column 'x'; it has 'y'"),
        ("x,x\n1,2\n", "The file has two columns called 'x'"),
        ("x,y\n1\n", "Row 1 of the file has 1 cell, its header 2"),
        ('x\n"1\n', "The file ends within a quoted cell"),
        ("x\n", "The file has no rows below its header"),
        ("<img src=x onerror=window.hacked=1>\n1\n", "it has '<img src=x onerror=window.hacked=1>'"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tab, text, said):
    tab.expected = ["status of 400"]
    page = tab.open("/#/models/line?tab=table")
    upload(page, text)
    expect(page.get_by_role("status").last).to_contain_text(said)


# --------------------------------------------------------------------------------------------------- names, keys


def test_a_name_is_only_a_name(tab):
    page = tab.open("/#/models/hostile")
    expect(page.locator(ANSWER)).to_have_text(hostile.CLASSES[2])
    for name in hostile.ROW:
        expect(page.locator(".field label bdi", has_text=name).first).to_be_visible()
    field(page, f"{hostile.IMAGE} <i>cm</i>").fill("9")
    expect(page.locator(ANSWER)).to_have_text(hostile.CLASSES[0])
    expect(page.locator(".about")).to_contain_text(hostile.TARGET)
    for tab_name in ("Features", "Table"):
        page.get_by_role("tab", name=tab_name).click()
        expect(page.get_by_role("tabpanel")).to_contain_text(hostile.QUOTE)
    text = io.StringIO()
    csv.writer(text).writerows([list(hostile.ROW), list(hostile.ROW.values())])
    upload(page, text.getvalue())
    expect(page.locator("td.predicted").first).to_have_text(hostile.CLASSES[2])
    assert page.locator("main img, main b[onmouseover], main script, main svg[onload]").count() == 0


def test_a_card_is_shown_and_can_do_nothing(tab):
    tab.expected = ["Content Security Policy", "Blocked script execution", "Blocked form submission"]  # as it should
    page = tab.open("/#/models/hostile?tab=card")
    frame = page.frame_locator("iframe")
    expect(frame.get_by_role("heading", name="The card")).to_have_css("color", "rgb(1, 2, 3)")
    expect(page.locator("iframe")).to_have_css("height", "918px")  # as high as it is, with its margins
    frame.get_by_role("heading").click()
    frame.get_by_role("link").click()
    frame.get_by_role("button").click()
    assert frame.locator("body").evaluate("() => window.hacked ?? null") is None
    assert not any("/shutdown" in url or url.endswith("/x") for url in tab.answered)
    tab.open("/v1/models/hostile/report")
    expect(page.get_by_role("heading")).to_be_visible()


def test_a_version_without_a_card_says_so(tab):
    tab.expected = ["status of 404"]
    page = tab.open("/#/models/line?tab=card")
    expect(page.get_by_text("published without a card")).to_be_visible()


def test_the_key_is_asked_for_and_stays_in_the_tab(locked):
    locked.expected = ["status of 401"]
    page = locked.open("/#/models/line")
    key = page.get_by_role("textbox", name="Access key")
    expect(key).to_be_visible()
    for _ in range(3):
        page.keyboard.press("Escape")
    key.fill("wrong horse")
    key.press("Enter")
    expect(page.get_by_text("The server does not know this key.")).to_be_visible()
    key.fill("correct horse")
    page.get_by_role("button", name="Continue").click()
    expect(page.locator(ANSWER)).to_have_text("7")
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    assert "correct horse" not in page.locator("section.code").inner_text()
    assert "$ROWCAST_API_KEY" in page.locator("section.code").inner_text()
    page.reload()
    expect(page.locator(ANSWER)).to_have_text("7")


# --------------------------------------------------------------------------------------------------- everybody


def test_the_page_is_used_by_keyboard(tab):
    page = tab.open()
    expect(page.get_by_role("link", name="line", exact=True)).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="coin", exact=True)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_contain_text("coin")
    page.get_by_role("tab", name="Predict").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Table")).to_be_focused()
    expect(page.get_by_label("Choose a CSV file")).to_be_visible()
    page.keyboard.press("End")
    expect(page.get_by_role("tab", name="Card")).to_have_attribute("aria-selected", "true")
    tab.expected = ["status of 404"]  # coin has no card


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_read_it(tab, scheme):
    page = tab.page
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    for path in VIEWS if scheme == "light" else VIEWS[:3]:
        page.goto("about:blank")  # else an address that differs behind its # is not opened anew
        tab.open(path)
        page.wait_for_selector(".operation" if path == "/docs" else "table, .answer output, .drop")
        for details in page.locator("details").all()[:3]:
            details.evaluate("(one) => { one.open = true; }")
        found = Axe().run(page, options={"runOnly": RULES if scheme == "light" else ["color-contrast"]})
        assert found.response["violations"] == [], (path, found.generate_report())


@pytest.mark.parametrize("path", [*VIEWS, "/#/models/hostile?tab=table", "/#/models/hostile?tab=features"])
def test_nothing_is_wider_than_a_phone(tab, path):
    tab.page.set_viewport_size({"width": 360, "height": 740})
    page = tab.open(path)
    page.wait_for_selector(".operation" if path == "/docs" else "table, .answer output, .drop")
    page.evaluate("document.querySelectorAll('main details').forEach((one) => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_api_is_described(tab):
    page = tab.open("/docs")
    page.get_by_text("/v1/models/flowers:predict", exact=True).click()
    inside = page.locator(".operation[open]")
    expect(inside).to_contain_text("curl -s")
    expect(inside).to_contain_text("bad_row")
    inside.get_by_text("flowers.1.Request").click()
    inside.get_by_text("flowers.1.Row").first.click()
    expect(inside).to_contain_text("In cm. From -10 to 10 in the training rows.")
