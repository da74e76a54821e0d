"""The model card: what it shows for which network, and that a name in it is only a name."""

import re
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training import recipe
from training.plan import FitPlan, Plan
from training.publishing import drawing, report

QUICK = FitPlan(epochs=3, members=2, averaged=1, linear=False)


def fitted(frame, target, tmp_path, **plan):
    path = tmp_path / "table.parquet"
    frame.write_parquet(path)
    fields = {"name": "card", "target": target, "table": {"path": str(path)}, "fit": QUICK.model_dump()} | plan
    return recipe.train(Plan.of(fields, "test"))


def rows(count=60, **columns):
    rng = np.random.default_rng(0)
    numbers = {name: rng.normal(size=count) for name in columns.pop("numbers", ("x",))}
    return pl.DataFrame(numbers | columns)


def plots(folder):
    """The names of the plots in a report, which is one file."""
    assert [path.name for path in folder.iterdir()] == ["index.html"]
    page = (folder / "index.html").read_text("utf-8")
    names = re.findall(r'<figcaption id="(\w+)">', page)
    assert page.count("<svg role") == len(names)
    return names


class Page(HTMLParser):
    """Tags and texts of a page, and whether every tag is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts, self.sources, self.names = [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        self.names += [value for name, value in attributes if name == "id"]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_one_number_to_one_number_shows_data_and_fit(tmp_path):
    frame = rows().with_columns(y=pl.col("x") * 2)
    report.write_report(tmp_path / "report", fitted(frame, ["y"], tmp_path))
    assert plots(tmp_path / "report") == ["fit", "residuals", "loss"]


def test_two_numbers_to_a_class_show_the_decision_surface(tmp_path):
    frame = rows(numbers=("a", "b")).with_columns(side=pl.col("a") > pl.col("b"))
    report.write_report(tmp_path / "report", fitted(frame, ["side"], tmp_path))
    assert plots(tmp_path / "report") == ["surface", "confusion", "curves", "reliability", "loss"]


def test_a_surface_is_drawn_although_coordinates_are_missing_or_all_equal(tmp_path):
    frame = rows(numbers=("a", "b")).with_columns(side=pl.col("a") > 0)
    frame = frame.with_columns(b=pl.when(pl.int_range(pl.len()) % 9 == 0).then(None).otherwise(1.0))
    report.write_report(tmp_path / "report", fitted(frame, ["side"], tmp_path))
    assert "surface" in plots(tmp_path / "report")


def test_a_surface_is_drawn_however_far_apart_its_coordinates_are(tmp_path, capfd):
    frame = rows(numbers=("a", "b")).select(pl.col("a") * 1e300, pl.col("b") * 1e-300, y=pl.col("a"))
    report.write_report(tmp_path / "report", fitted(frame, ["y"], tmp_path))
    assert "surface" in plots(tmp_path / "report")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("target", ["side", "y"])
def test_a_surface_is_drawn_although_a_coordinate_is_missing_in_every_row_that_judges(tmp_path, target):
    part = ["train", "train", "validation", "test"] * 15
    frame = rows(numbers=("a", "b")).with_columns(side=pl.col("a") > 0, y=2 * pl.col("a"), part=pl.Series(part))
    frame = frame.with_columns(b=pl.when(pl.col("part") != "test").then("b")).select("a", "b", "part", target)
    report.write_report(tmp_path / "report", fitted(frame, [target], tmp_path, split={"column": "part"}))
    assert "surface" in plots(tmp_path / "report")


def test_other_regressions_show_predicted_against_actual(tmp_path):
    frame = rows(numbers=("a", "b", "c")).with_columns(y=pl.col("a") + pl.col("b"), z=pl.col("c"))
    report.write_report(tmp_path / "report", fitted(frame, ["y", "z"], tmp_path))
    assert plots(tmp_path / "report") == ["predicted", "residuals", "loss"]


@pytest.mark.parametrize("classes", [2, 5, 15])
def test_other_classifications_show_the_confusion_matrix(tmp_path, classes):
    frame = rows(300, numbers=("a", "b", "c"), kind=[f"class {row % classes}" for row in range(300)])
    report.write_report(tmp_path / "report", fitted(frame, ["kind"], tmp_path))
    assert plots(tmp_path / "report") == ["confusion", "curves", "reliability", "loss"]


def test_every_kind_of_feature_is_described(tmp_path, mixed):
    of_mixed = fitted(mixed, ["grade"], tmp_path)
    report.write_report(tmp_path / "report", of_mixed)
    page = Page((tmp_path / "report" / "index.html").read_text())
    for name in of_mixed.schema.names:
        assert name in page.texts
    shown = " ".join(page.texts)
    assert "blue, green, red" in shown
    assert re.search(r"2024-0\d-\d\d to 2024-\d\d-\d\d", shown)
    assert re.search(r"true in \d\d\.\d%", shown)


def test_the_card_shows_every_score_beside_the_baselines(tmp_path):
    frame = rows().with_columns(y=pl.col("x") * 2)
    of_line = fitted(frame, ["y"], tmp_path)
    report.write_report(tmp_path / "report", of_line)
    texts = Page((tmp_path / "report" / "index.html").read_text()).texts
    for scores in of_line.scores.values():
        for metrics in (scores.metrics, *scores.baselines.values()):
            assert f"{metrics['rmse']:.4g}" in texts
    assert {"network", "mean", "linear"} <= set(texts)


def test_the_report_needs_nothing_beside_it(tmp_path):
    frame = rows().with_columns(y=pl.col("x") * 2)
    report.write_report(tmp_path / "report", fitted(frame, ["y"], tmp_path))
    text = (tmp_path / "report" / "index.html").read_text("utf-8")
    page = Page(text)
    assert all(source.startswith(("#", "data:image/png;base64,")) for source in page.sources)
    assert len(set(page.names)) == len(page.names)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert set(re.findall(r"url\((.)", text)) <= {"#"}


def test_a_report_is_read_on_a_dark_screen(tmp_path):
    frame = rows().with_columns(y=pl.col("x") * 2)
    report.write_report(tmp_path / "report", fitted(frame, ["y"], tmp_path))
    text = (tmp_path / "report" / "index.html").read_text("utf-8")
    assert "prefers-color-scheme: dark" in text
    assert not re.search(drawing.INK, text, re.IGNORECASE)  # the ink of the plots is the page's
    assert "currentColor" in text


def test_two_numbers_to_a_number_show_the_surface(tmp_path):
    frame = rows(numbers=("a", "b")).with_columns(y=pl.col("a") * pl.col("b"))
    report.write_report(tmp_path / "report", fitted(frame, ["y"], tmp_path))
    assert plots(tmp_path / "report") == ["surface", "predicted", "residuals", "loss"]


def test_the_card_does_not_tell_where_the_table_was(tmp_path):
    frame = rows().with_columns(y=pl.col("x") * 2)
    report.write_report(tmp_path / "report", fitted(frame, ["y"], tmp_path))
    for path in (tmp_path / "report").iterdir():
        assert str(tmp_path).encode() not in path.read_bytes()
    assert '"path": "table.parquet"' in (tmp_path / "report" / "index.html").read_text().replace("&quot;", '"')


def test_one_network_has_one_report_byte_for_byte(tmp_path):
    frame = rows(numbers=("a", "b")).with_columns(side=pl.col("a") > pl.col("b"))
    one = fitted(frame, ["side"], tmp_path)
    report.write_report(tmp_path / "first", one)
    report.write_report(tmp_path / "second", one)
    first, second = ((tmp_path / folder / "index.html").read_bytes() for folder in ("first", "second"))
    assert first == second


HOSTILE = ["<script>x</script>", "a&b", "$x$ $\\frac{$", '"', "'", "人口", "%s{0}", "a\tb", "_" * 90, "\\"]


@pytest.mark.parametrize("inputs", [1, 2, len(HOSTILE) - 1])
def test_a_name_is_only_a_name(tmp_path, inputs):
    target, *names = HOSTILE
    labels = ["<b>", "$p$ & co"]
    frame = rows(numbers=names[:inputs]).with_columns(pl.Series(target, [labels[row % 2] for row in range(60)]))
    report.write_report(tmp_path / "report", fitted(frame, [target], tmp_path, about="<u>"))
    page = Page((tmp_path / "report" / "index.html").read_text("utf-8"))
    assert not {"script", "u"} & set(page.tags)
    assert page.tags.count("b") == 1  # our own, around the target
    assert {target, *names[:inputs]} <= set(page.texts)


@given(st.text(max_size=200))
def test_a_plot_shows_any_text_on_one_short_line(text):
    drawn = drawing.shortened(text)
    assert len(drawn) <= 40
    assert drawn.isprintable()
