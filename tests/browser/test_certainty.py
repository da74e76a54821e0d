"""How sure an answer is and what each feature adds to it, on the page of a version that says so."""

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import serving
from tests.service import tiny
from tests.service.test_certainty import OF_LINE, OF_PAIR, SETS, ZERO


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    root = tmp_path_factory.mktemp("sure")
    tiny.publish(root, "line", intervals=OF_LINE, background=[{"x": 0.0}, {"x": 2.0}])
    tiny.publish(root, "pair", intervals=OF_PAIR, background=[{"a": 1.0, "b": 1.0}])
    tiny.publish(root, "flowers", prediction_sets=SETS, background=[ZERO])
    yield from serving(root, tmp_path_factory)


def test_a_number_comes_with_its_interval_and_so_does_the_curve(tab):
    page = tab.open("/#/models/line")
    expect(page.locator(".range")).to_have_text("3 to 11")
    expect(page.locator("path.band")).to_be_attached()
    page.get_by_label("Interval of").select_option("50 %")
    expect(page.locator(".range")).to_have_text("4 to 10")
    plot = page.get_by_role("application")
    plot.press("ArrowRight")
    expect(page.locator(".reading")).to_have_text("0.2   1.4   (0.4 to 2.4)")


def test_an_answer_for_another_level_that_comes_late_is_not_shown(tab):
    page = tab.open("/#/models/line")
    expect(page.locator("path.band")).to_be_attached()
    slow = []
    page.route(
        "**:predict",
        lambda route: slow.append(route) if '"interval":0.5' in route.request.post_data else route.continue_(),
    )
    with page.expect_request("**:predict"):
        page.get_by_label("Interval of").select_option("50 %")
    with page.expect_event("requestfailed") as given_up:
        page.get_by_label("Interval of").select_option("90 %")
    assert given_up.value == slow[0].request
    expect(page.locator(".range")).to_have_text("3 to 11")


def test_each_of_several_numbers_has_its_own(tab):
    page = tab.open("/#/models/pair")
    expect(page.locator(".range")).to_have_text(["5 to 9", "1 to 9"])


def test_a_class_comes_with_those_it_may_be_as_well(tab):
    page = tab.open("/#/models/flowers")
    expect(page.get_by_text("Among these, sure to 90 %: rose")).to_be_visible()


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("line", ["y is 7; the mean of some training rows is 3.", "x+4"]),
        ("pair", ["sum is 7; the mean", "difference is 3; the mean", "a+4", "b+1", "b\N{MINUS SIGN}1"]),
        ("flowers", ["probability of rose is", "width+"]),
    ],
)
def test_a_row_is_explained_on_request(tab, model, said):
    page = tab.open(f"/#/models/{model}")
    expect(page.locator(".answer output").first).to_be_visible()
    page.get_by_role("button", name="Explain this row").click()
    for text in said:
        expect(page.locator(".why")).to_contain_text(text)
