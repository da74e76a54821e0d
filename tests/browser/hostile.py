"""A model whose every name tries to be more than a name, and a report that tries to do something."""

import numpy as np

from models.features import CategoryFeature, NumberFeature
from models.schema import Schema
from tests.service import tiny

IMAGE = "<img src=x onerror=\"window.hacked='feature'\">"
QUOTE = "it's \"$(touch hacked)\" `x` </script><script>window.hacked='quote'</script>"
BACKWARDS = "\u202egnp.exe" + "x" * 400
PROTO = "__proto__"
TARGET = "<b onmouseover=window.hacked='target'>target</b>"
CLASSES = ("<script>window.hacked='class'</script>", 'a,"b"\n;c', "\u202ereversed")
CATEGORIES = ('"><svg onload="window.hacked=\'category\'">', "مرحبا", "plain", "Z" * 3000)
REPORT = b"""<!doctype html><html><head><style>body { height: 900px } h1 { color: rgb(1, 2, 3) }</style></head><body>
<h1 onclick="parent.hacked='report'">The card</h1><script>parent.hacked = 'report'; window.hacked = 1</script>
<img src="x" onerror="parent.hacked = 'report'"><img src="/metrics"><link rel="stylesheet" href="/page/style.css">
<a href="javascript:parent.hacked='report'">a</a><form action="/shutdown" method="post"><button>b</button></form>
</body></html>"""
ROW = {IMAGE: 1.5, QUOTE: 2.5, BACKWARDS: "plain", PROTO: 3.5}


def publish(root, monkeypatch):
    """`hostile` 1: the largest of three numbers says which class."""
    numbers = {name: NumberFeature(name=name, unit="<i>cm</i>", quantiles=(0.0, 5.0, 10.0)) for name in ROW}
    category = CategoryFeature(name=BACKWARDS, categories=CATEGORIES)
    features = [category if name == BACKWARDS else number for name, number in numbers.items()]
    weights = np.zeros((4, 3))
    weights[[0, 1, 3], [0, 1, 2]] = 1
    monkeypatch.setitem(tiny.ROWS, "hostile", ROW)
    monkeypatch.setitem(tiny.SCHEMAS, "hostile", Schema(features=tuple(features)))
    monkeypatch.setitem(tiny.WEIGHTS, "hostile", (weights.tolist(), [0, 0, 0]))
    monkeypatch.setitem(tiny.TASKS, "hostile", "multiclass")
    monkeypatch.setitem(tiny.TARGETS, "hostile", (TARGET,))
    monkeypatch.setitem(tiny.CLASSES, "hostile", CLASSES)
    return tiny.publish(root, "hostile", report={"index.html": REPORT})
