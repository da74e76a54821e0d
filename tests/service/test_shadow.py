"""What a shadow computes is compared and counted; whatever it does, nobody who asks notices."""

import asyncio
import json
import os
import socket
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from models.repository import Repository
from service.asking import Question, form_question, oip_question, plain_question, scoring_question
from service.batching.agreement import Agreement, agreement, encodes_alike
from service.batching.shadow import KEPT_ROWS, Counts, Shadows, _matrix_for
from service.sessions.onnx import OnnxSession
from service.wire import forms, plain
from service.workers import worker
from service.workers.engine import Engine
from tests.service import hostile, tiny


@pytest.fixture
def registry(counts):
    assert counts.is_dir()
    return CollectorRegistry()


def counted(registry, name, **labels):
    return registry.get_sample_value(f"rowcast_shadow_{name}_total", {"model": "line", "version": "2"} | labels) or 0.0


def question(version, values):
    matrix = np.array(values, dtype=np.float32)
    return Question(version, matrix, 1.0, lambda _: (b"", {}), lambda other: matrix.astype(other.schema.dtype))


@pytest.fixture
def tmp_path(sockets):
    """One whose path is short enough for a socket."""
    return sockets


@pytest.fixture
def process(tmp_path):
    """Serves shadows at tmp_path/shadow.sock from a thread, once it is told to; counts how often it was."""
    path, ends, threads = tmp_path / "shadow.sock", [], []

    def start():
        if not threads:
            end = worker.End()
            engine = Engine(Repository(tmp_path / "published"), lambda version: OnnxSession(version, "cpu"))
            threads.append(threading.Thread(target=worker.serve, args=(engine, path, 0.05, end)))
            threads[0].start()
            ends.append(end)

    yield start
    for end, thread in zip(ends, threads, strict=True):
        end.tell()
        thread.join(60)


def see(tmp_path, registry, start, questions, patience_s=60.0):
    """Have all questions noted at once, and wait until the shadow has computed what it will."""

    async def all_of_it():
        shadow = Repository(tmp_path / "published").open("line", 2)
        shadows = Shadows(
            lambda _, key: shadow if key else None,
            start,
            tmp_path / "shadow.sock",
            Counts(registry),
            patience_s,
        )
        for asked in questions:
            answers = tiny.answer("line", asked.matrix)
            shadows.saw(asked, "key", answers)
            shadows.saw(asked, "", answers)  # one of those that it is not to compute
        await asyncio.wait_for(shadows._task, 120)
        await shadows.stop()

    asyncio.run(all_of_it())


def test_every_request_is_compared_with_what_was_answered(tmp_path, registry, process):
    stable = tiny.publish(tmp_path / "published", "line")
    tiny.publish(tmp_path / "published", "line", shift=0.5)
    see(tmp_path, registry, process, [question(stable, [[1], [2], [3]]), question(stable, [[4]])])
    assert counted(registry, "requests", outcome="ok") == 2
    assert counted(registry, "rows") == 4
    assert counted(registry, "equal_rows") == 0
    assert counted(registry, "difference") == pytest.approx(4 * 0.5)
    assert counted(registry, "compute_seconds") > 0


def test_more_than_a_shadow_takes_is_dropped(tmp_path, registry, process):
    stable = tiny.publish(tmp_path / "published", "line")
    tiny.publish(tmp_path / "published", "line")
    many = [question(stable, [[1]] * KEPT_ROWS) for _ in range(20)]
    see(tmp_path, registry, process, [*many, question(stable, [[1]] * (KEPT_ROWS + 1))])
    assert counted(registry, "requests", outcome="dropped") == 20 - 8 + 1
    assert counted(registry, "requests", outcome="ok") == 8
    assert counted(registry, "rows") == counted(registry, "equal_rows") == 8 * KEPT_ROWS


def test_a_process_that_does_not_come_is_a_failure_that_is_counted(tmp_path, registry, monkeypatch):
    monkeypatch.setattr("service.batching.shadow._START_S", 0.1)
    stable = tiny.publish(tmp_path / "published", "line")
    tiny.publish(tmp_path / "published", "line")
    see(tmp_path, registry, lambda: None, [question(stable, [[1]])])
    assert counted(registry, "requests", outcome="failed") == 1


def test_a_shadow_whose_network_is_refused_is_a_failure_that_is_counted(tmp_path, registry, process, monkeypatch):
    monkeypatch.setattr("service.batching.shadow._BACKOFF_S", 0.0)
    stable = tiny.publish(tmp_path / "published", "line")
    tiny.publish(tmp_path / "published", "line", hostile.elsewhere("x"))
    see(tmp_path, registry, process, [question(stable, [[1]])])
    assert counted(registry, "requests", outcome="failed") == 1


def test_a_process_that_hangs_is_killed(tmp_path, registry, monkeypatch):
    monkeypatch.setattr("service.batching.shadow._BACKOFF_S", 0.0)
    stable = tiny.publish(tmp_path / "published", "line")
    tiny.publish(tmp_path / "published", "line")
    heard, says = os.pipe()
    pid = os.fork()
    if pid == 0:  # accepts and never answers
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "shadow.sock"))
            listener.listen()
            os.write(says, b"it listens")
            connection, _ = listener.accept()
            while connection.recv(1000):
                pass
        os._exit(0)
    os.read(heard, 20)
    for end in (heard, says):
        os.close(end)
    see(tmp_path, registry, lambda: None, [question(stable, [[1]])], patience_s=0.2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
    assert counted(registry, "requests", outcome="failed") == 1


def test_classes_are_compared_by_name_and_not_by_place(tmp_path):
    one, other = tiny.publish(tmp_path, "flowers"), tiny.publish(tmp_path, "flowers")
    turned = other.manifest.model_copy(update={"classes": ("tulip", "rose", "daisy")})
    object.__setattr__(other, "manifest", turned)
    ours = {"probabilities": np.float32([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]]), "label": np.array([0, 1])}
    theirs = {"probabilities": np.float32([[0.2, 0.7, 0.1], [0.2, 0.7, 0.1]]), "label": np.array([1, 1])}
    compared = agreement(one, ours, other, theirs)
    assert (compared.rows, compared.equal) == (2, 1)  # rose and rose; tulip and rose
    assert compared.difference == pytest.approx(0.6 / 3 + 0.6 / 3 * 2 - 0.2, abs=1e-6)


def test_versions_that_predict_different_things_are_not_compared(tmp_path):
    line, coin = tiny.publish(tmp_path, "line"), tiny.publish(tmp_path, "coin")
    assert agreement(line, {}, coin, {}) == Agreement(0, 0, 0.0)


def test_schemas_encode_alike_when_what_is_computed_is_the_same():
    flowers = tiny.SCHEMAS["flowers"]
    color = flowers.features[2]
    other = [color.model_copy(update={"categories": ("blue", "red")}), color.model_copy(update={"missing_share": 0.5})]
    turned, told = (
        flowers.model_copy(update={"features": (*flowers.features[:2], one, *flowers.features[3:])}) for one in other
    )
    assert not encodes_alike(flowers, turned)
    assert encodes_alike(flowers, told)
    assert not encodes_alike(flowers, flowers.model_copy(update={"datatype": "FP64"}))


def tensors(row):
    datatypes = {float: "FP32", str: "BYTES", bool: "BOOL"}
    return {
        "inputs": [
            {"name": name, "datatype": datatypes[type(value)], "shape": [1], "data": [value]}
            for name, value in row.items()
        ]
    }


JSON, LINES = forms.of_body("application/json"), forms.of_body("application/jsonlines")


@pytest.mark.parametrize(
    "ask",
    [
        lambda settings, version, row: plain_question(settings, version, plain.read({"instances": [row]})),
        lambda settings, version, row: form_question(settings, version, LINES, json.dumps(row).encode()),
        lambda settings, version, row: scoring_question(
            settings, version, JSON, JSON, json.dumps({"dataframe_records": [row]}).encode()
        ),
        lambda settings, version, row: oip_question(settings, version, json.dumps(tensors(row)).encode(), None),
    ],
    ids=["plain", "form", "scoring", "oip"],
)
def test_a_shadow_with_another_schema_reads_the_rows_in_its_own_way(tmp_path, ask):
    settings = SimpleNamespace(max_rows=1000, deadline_s=1.0)
    version, shadow = tiny.publish(tmp_path, "flowers"), tiny.publish(tmp_path, "flowers")
    features = shadow.schema.features
    color = features[2].model_copy(update={"categories": ("blue", "red")})
    schema = shadow.schema.model_copy(update={"features": (*features[:2], color, *features[3:])})
    object.__setattr__(shadow, "manifest", shadow.manifest.model_copy(update={"input": schema}))
    asked = ask(settings, version, tiny.ROWS["flowers"])
    assert (asked.matrix[0, 2], _matrix_for(version, asked)[0, 2], _matrix_for(shadow, asked)[0, 2]) == (0, 0, 1)
