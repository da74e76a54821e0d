"""Guides about tables: every block runs, on a table as a user might have."""

import random

import pytest

from tests.docs.pages import ROOT, Runner, blocks, is_as_shown

PAGES = ROOT / "docs/how-to"


def write_tables(folder):
    """Houses that were sold: `my.csv` with their prices, `new.csv` without, `export.csv` as a spreadsheet has them."""
    chance = random.Random(0)
    header = "street,area,rooms,zip,garden,sold"
    lines, prices = [], []
    for number in range(160):
        area, code, garden = chance.randint(40, 160), chance.choice(["6100", "6200", "6300"]), chance.random() < 0.5
        sold = f"{2020 + number // 40}-{1 + number % 12:02}-{1 + number % 28:02}"
        rooms = "" if number % 9 == 0 else area // 25
        lines.append(f"{number} High Street,{area},{rooms},{code},{str(garden).lower()},{sold}")
        prices.append(area * 3 + (code == "6200") * 90 + garden * 40 + chance.randint(0, 30))
    priced = [f"{line},{price}" for line, price in zip(lines, prices, strict=True)]
    (folder / "my.csv").write_text("\n".join([f"{header},price", *priced]) + "\n")
    (folder / "new.csv").write_text("\n".join([header, *lines[:20]]) + "\n")
    exported = ["Mill Lane;120;1.250,50 \u20ac;12,5 %;01.05.2024", "High Street;80;-3,00 \u20ac;0 %;02.05.2024"] * 20
    (folder / "export.csv").write_text("\n".join(["\ufeffstreet;area;price;discount;sold", *exported]) + "\n")


@pytest.mark.parametrize(
    "name",
    [
        "mixed-columns",
        "time-splits",
        pytest.param("your-table", marks=pytest.mark.server),
    ],
)
def test_a_guide_does_what_it_says(name, tmp_path):
    write_tables(tmp_path)

    with Runner(tmp_path) as runner:
        for block in blocks((PAGES / f"{name}.md").read_text()):
            printed = runner.run(block)
            assert block.shown is None or is_as_shown(printed, block.shown), printed


@pytest.mark.server
def test_the_guide_to_upgrading_does_what_it_says(tmp_path):
    write_tables(tmp_path)

    with Runner(tmp_path) as runner:
        runner.sh("python -m training my.csv --target price --epochs 2")
        printed = [runner.run(block) for block in blocks((PAGES / "upgrading.md").read_text())]

    assert '"my"' in printed[-1]
