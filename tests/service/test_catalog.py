import asyncio
import os
import shutil
import time

import pytest

from models.repository import Repository
from service.catalog import Catalog
from service.problems import NotReady, UnknownLabel, UnknownModel, UnknownVersion
from tests.service import tiny


class Workers:
    """They prove what they are told to; `refuse` and `absent` say otherwise."""

    def __init__(self) -> None:
        self.refuse: set[str] = set()
        self.absent = False
        self.asked: list[str] = []

    async def prove(self, version):
        self.asked.append(str(version))
        if self.absent:
            raise ConnectionError
        return f"{version}: the proof does not come out" if str(version) in self.refuse else None


@pytest.fixture
def workers():
    return Workers()


@pytest.fixture
def look(tmp_path, workers):
    """A catalogue of tmp_path after one more look at it."""
    catalog = Catalog(Repository(tmp_path), workers.prove)

    def look():
        asyncio.run(catalog.refresh())
        return catalog

    return look


def settle(root):
    """Let the folders look as if nothing had changed for a while."""
    for model in root.iterdir():
        os.utime(model, (time.time() - 100, time.time() - 100))


def test_published_versions_are_live_and_the_latest_is_asked(tmp_path, look):
    tiny.publish(tmp_path, "line")
    tiny.publish(tmp_path, "line")
    assert list(look().live()["line"]) == [1, 2]
    assert look().find("line").number == 2
    assert look().find("line", 1).number == 1


def test_the_only_model_needs_no_name_and_one_of_two_does(tmp_path, look):
    tiny.publish(tmp_path, "line")
    assert look().find(None).name == "line"
    tiny.publish(tmp_path, "coin")
    with pytest.raises(UnknownModel) as caught:
        look().find(None)
    assert caught.value.known == ("coin", "line")


def test_the_label_stable_is_whom_a_request_without_a_version_asks(tmp_path, look):
    tiny.publish(tmp_path, "line")
    tiny.publish(tmp_path, "line")
    Repository(tmp_path).set_label("line", "stable", 1)
    assert look().find("line").number == 1
    assert look().find("line", label="stable").number == 1
    Repository(tmp_path).set_label("line", "stable", 2)
    assert look().find("line").number == 2
    with pytest.raises(UnknownLabel):
        look().find("line", label="canary")


def test_a_stable_version_that_is_not_live_is_never_replaced_by_another(tmp_path, look, workers):
    tiny.publish(tmp_path, "line")
    tiny.publish(tmp_path, "line")
    Repository(tmp_path).set_label("line", "stable", 1)
    workers.refuse = {"line/1"}
    with pytest.raises(NotReady, match="'stable' of 'line' names version 1, which is not live: line/1: the proof"):
        look().find("line")
    assert look().find("line", 2).number == 2


def test_what_is_not_there_is_refused_with_what_is(tmp_path, look):
    tiny.publish(tmp_path, "line")
    with pytest.raises(UnknownModel) as model:
        look().find("lime")
    with pytest.raises(UnknownVersion) as version:
        look().find("line", 7)
    assert (model.value.known, version.value.known) == (("line",), (1,))


def test_a_bad_version_is_refused_in_one_sentence_and_the_others_serve_on(tmp_path, look, workers):
    tiny.publish(tmp_path, "line")
    look()
    tiny.publish(tmp_path, "line")
    graph = tmp_path / "line/2/model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"!")
    tiny.publish(tmp_path, "coin")
    workers.refuse = {"coin/1"}
    catalog = look()
    assert catalog.failures == {
        "line/2": "line/2: model.onnx is not the file its manifest describes; publish it again",
        "coin/1": "coin/1: the proof does not come out",
    }
    assert catalog.find("line").number == 1
    with pytest.raises(NotReady, match="no version of 'coin' could be opened: coin/1: the proof"):
        catalog.find("coin")
    look()
    assert workers.asked.count("coin/1") == 1  # a refused version is not tried again, it never changes


def test_a_new_version_appears_and_a_deleted_one_goes(tmp_path, look):
    tiny.publish(tmp_path, "line")
    look()
    settle(tmp_path)
    look()
    tiny.publish(tmp_path, "line")
    assert list(look().live()["line"]) == [1, 2]
    shutil.rmtree(tmp_path / "line/1")
    assert list(look().live()["line"]) == [2]
    shutil.rmtree(tmp_path / "line")
    assert look().live() == {}


def test_a_repository_that_did_not_change_is_not_read_again(tmp_path, look, workers, monkeypatch):
    tiny.publish(tmp_path, "line")
    settle(tmp_path)
    look()
    monkeypatch.setattr(Repository, "versions", None)  # would fail
    look()
    assert workers.asked == ["line/1"]


def test_another_version_in_the_place_of_a_deleted_one_is_opened_anew(tmp_path, look, workers):
    before = tiny.publish(tmp_path, "line")
    look()
    shutil.rmtree(tmp_path / "line")
    time.sleep(0.02)  # the clock of file times ticks every few milliseconds
    after = tiny.publish(tmp_path, "line")
    assert before.number == after.number
    look()
    assert workers.asked == ["line/1", "line/1"]


def test_a_version_that_nobody_was_there_to_prove_is_tried_again(tmp_path, look, workers):
    tiny.publish(tmp_path, "line")
    settle(tmp_path)
    workers.absent = True
    assert look().live() == {}
    assert look().failures == {}
    workers.absent = False
    assert look().find("line").number == 1


def test_labels_that_cannot_be_read_leave_the_ones_that_were_right(tmp_path, look):
    tiny.publish(tmp_path, "line")
    tiny.publish(tmp_path, "line")
    Repository(tmp_path).set_label("line", "stable", 1)
    look()
    (tmp_path / "line/labels.json").write_text("{")
    (tmp_path / "line/touch").touch()
    catalog = look()
    assert catalog.find("line").number == 1
    assert "is not JSON" in catalog.failures["line/labels.json"]


def test_an_empty_repository_says_how_to_fill_it(tmp_path, look):
    assert look().why_not_ready() == f"nothing is published in {tmp_path}; `make train` trains and publishes a model"
    with pytest.raises(NotReady, match="make train"):
        look().find("line")


def test_a_repository_that_is_not_there_yet_may_come(tmp_path, workers):
    catalog = Catalog(Repository(tmp_path / "later"), workers.prove)
    asyncio.run(catalog.refresh())
    tiny.publish(tmp_path / "later", "line")
    asyncio.run(catalog.refresh())
    assert catalog.why_not_ready() is None


def test_a_repository_that_is_taken_away_takes_nothing_with_it(tmp_path, workers):
    tiny.publish(tmp_path / "volume", "line")
    catalog = Catalog(Repository(tmp_path / "volume"), workers.prove)
    asyncio.run(catalog.refresh())
    shutil.rmtree(tmp_path / "volume")
    asyncio.run(catalog.refresh())
    assert catalog.find("line").number == 1


def test_a_default_model_that_is_missing_is_said(tmp_path, workers):
    tiny.publish(tmp_path, "line")
    catalog = Catalog(Repository(tmp_path), workers.prove, default_model="coin")
    asyncio.run(catalog.refresh())
    assert "model 'coin' is not served here" in catalog.why_not_ready()


def test_a_stray_folder_is_no_model(tmp_path, look):
    (tmp_path / "my notes (old)/1").mkdir(parents=True)
    assert look().live() == {}
