import asyncio
import contextlib
import hashlib
import os
import shutil
import time
from collections import Counter

import pytest

from models.errors import BadVersion
from models.repository import Repository, Version
from service.app.oip_description import index
from service.problems import NotReady, UnknownLabel, UnknownModel, UnknownVersion
from service.processes.waking import next_turn
from service.versions.catalog import Catalog
from service.versions.folders import Folders
from service.versions.traffic import points
from tests.service import tiny


class Workers:
    """They prove what opens; `refuse` and `absent` say otherwise."""

    def __init__(self) -> None:
        self.refuse: set[str] = set()
        self.absent = False
        self.asked: list[str] = []
        self.together: list[int] = []

    async def prove(self, versions):
        self.asked += map(str, versions)
        self.together.append(len(versions))
        if self.absent:
            raise ConnectionError
        return [self.why_not(version) for version in versions]

    def why_not(self, version):
        try:
            Version.open(version.folder)
        except BadVersion as error:
            return str(error)
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


def settle():
    """Let so much time pass that folders which do not change are not read again."""
    time.sleep(1.1)


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
    assert list(caught.value.known) == ["coin", "line"]


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
    assert (model.value.known, version.value.known) == (["line"], [1])


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
    assert workers.asked.count("coin/1") == 1  # a refused version is not tried again while it does not change


def test_a_new_version_appears_and_a_deleted_one_goes(tmp_path, look):
    tiny.publish(tmp_path, "line")
    look()
    settle()
    look()
    tiny.publish(tmp_path, "line")
    assert list(look().live()["line"]) == [1, 2]
    shutil.rmtree(tmp_path / "line/1")
    assert list(look().live()["line"]) == [2]
    shutil.rmtree(tmp_path / "line")
    assert look().live() == {}


def test_a_repository_that_did_not_change_is_not_read_again(tmp_path, look, workers, monkeypatch):
    tiny.publish(tmp_path, "line")
    settle()
    look()
    monkeypatch.setattr(Repository, "versions", None)  # would fail
    look()
    assert workers.asked == ["line/1"]


def test_another_version_in_the_place_of_a_deleted_one_is_opened_anew(tmp_path, look, workers):
    before = tiny.publish(tmp_path, "line")
    look()
    shutil.rmtree(tmp_path / "line")
    time.sleep(0.02)  # the clock of file times ticks every few milliseconds
    after = tiny.publish(tmp_path, "line", shift=1)
    assert before.number == after.number
    assert look().find("line").key == after.key
    assert workers.asked == ["line/1", "line/1"]


def put_in_place(root, release):
    """Swap the repository as git-sync and ConfigMaps do."""
    beside = root.with_name("beside")
    beside.symlink_to(release)
    beside.replace(root)


def test_a_repository_in_the_place_of_another_is_seen_also_where_all_times_are_the_same(tmp_path, workers):
    """Archives that are made reproducibly unpack so, and many images are."""
    retired = []
    for release, shifts in (("one", [1]), ("two", [1, 2]), ("three", [3])):
        for shift in shifts:
            tiny.publish(tmp_path / release, "line", shift=shift)
        for path in [*(tmp_path / release).rglob("*"), tmp_path / release]:
            os.utime(path, (0, 0))
    root = tmp_path / "current"
    put_in_place(root, "one")
    catalog = Catalog(Repository(root), workers.prove, retire=lambda version: retired.append(version.key))
    settle()
    asyncio.run(catalog.refresh())
    first = catalog.find("line")
    put_in_place(root, "two")
    asyncio.run(catalog.refresh())
    assert catalog.find("line").number == 2
    assert catalog.find("line", 1) is first  # it is the same
    assert (workers.asked, retired) == (["line/1", "line/2"], [])
    second = catalog.find("line")
    put_in_place(root, "three")
    asyncio.run(catalog.refresh())
    assert catalog.find("line").manifest == Repository(root).open("line", 1).manifest != first.manifest
    assert sorted(retired) == [first.key, second.key]


@pytest.mark.parametrize("what", ["damaged", "absent", "another one that is bad"])
def test_a_live_version_goes_on_where_what_stands_in_its_place_is_bad(tmp_path, look, workers, what):
    tiny.publish(tmp_path, "line")
    Repository(tmp_path).set_label("line", "stable", 1)
    before = look().find("line")
    manifest = tmp_path / "line/1/manifest.json"
    if what == "damaged":
        manifest.write_bytes(manifest.read_bytes()[:-10])
    elif what == "absent":
        manifest.unlink()
    else:
        shutil.rmtree(tmp_path / "line")
        tiny.publish(tmp_path, "line", shift=1)
        Repository(tmp_path).set_label("line", "stable", 1)
        workers.refuse = {"line/1"}
    tiny.publish(tmp_path, "line")
    for _ in range(2):
        assert look().find("line") is before
        assert look().find("line", 2).number == 2
        assert list(look().failures) == ["line/1"]
    rows = [(row["version"], row["state"], row["reason"]) for row in index(look(), only_ready=False)]
    assert rows == [("1", "READY", look().failures["line/1"]), ("2", "READY", "")]


def test_a_version_that_nobody_was_there_to_prove_is_tried_again(tmp_path, look, workers):
    tiny.publish(tmp_path, "line")
    settle()
    workers.absent = True
    assert look().live() == {}
    assert look().failures == {}
    workers.absent = False
    assert look().find("line").number == 1


def test_what_is_live_goes_on_where_nobody_is_there_to_prove_what_stands_in_its_place(tmp_path, look, workers):
    for _ in range(2):
        tiny.publish(tmp_path, "line")
    pair = tiny.publish(tmp_path, "pair")
    before = look().live()
    manifest = tmp_path / "pair/1/manifest.json"  # as when the same volume is mounted anew, with one version more
    os.utime(manifest, (1, 1))
    shutil.rmtree(tmp_path / "line/2")
    other = tmp_path / "other"
    for shift in (0, 1):
        tiny.publish(other, "line", shift=shift)
    shutil.copytree(other / "line/2", tmp_path / "line/2")
    workers.absent = True
    for _ in range(2):
        after = look().live()
        assert after["line"] == before["line"]
        assert after["pair"][1].key == pair.key
    workers.absent = False
    assert look().find("line").key == Repository(tmp_path).open("line", 2).key != before["line"][2].key


def test_a_look_that_failed_is_made_again(tmp_path, look, workers, monkeypatch):
    tiny.publish(tmp_path, "line")
    settle()
    with monkeypatch.context() as change:
        change.setattr(workers, "why_not", no_files)
        with pytest.raises(OSError, match="too many open files"):
            look()
    assert look().find("line").number == 1


def no_files(_):
    raise OSError("too many open files")


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


def test_a_repository_that_cannot_be_read_is_not_called_empty(tmp_path, workers):
    (tmp_path / "root").write_text("a file, or a volume that this user may not enter")
    catalog = Catalog(Repository(tmp_path / "root"), workers.prove)
    asyncio.run(catalog.refresh())
    assert catalog.why_not_ready() == f"the repository cannot be read: {tmp_path}/root: Not a directory"


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


# ------------------------------------------------------------------------------------------- labels, shares, shadows


def three(root):
    """line 1, 2 and 3, of which 1 is stable."""
    for _ in range(3):
        tiny.publish(root, "line")
    repository = Repository(root)
    repository.set_label("line", "stable", 1)
    return repository


def answering(catalog, keys=2000):
    """How many of so many routing keys each version answers."""
    return Counter(catalog.find("line", key=f"user-{i}").number for i in range(keys))


def test_a_share_of_the_unlabelled_traffic_goes_to_the_canary(tmp_path, look):
    repository = three(tmp_path)
    repository.set_label("line", "canary", 2, share=0.05)
    counted = answering(look())
    assert counted.keys() == {1, 2}
    assert 70 < counted[2] < 130  # of 2000, 100 expected, give or take 10 at one standard deviation
    assert look().find("line", label="stable", key="x").number == 1
    assert {look().find("line", 3, key=f"{i}").number for i in range(100)} == {3}
    repository.set_label("line", "canary", 2, share=1)
    assert answering(look()) == {2: 2000}


def test_a_routing_key_stays_where_it_is_while_the_share_grows(tmp_path, look):
    repository = three(tmp_path)

    def canaries(share):
        repository.set_label("line", "canary", 2, share=share)
        return {i for i in range(500) if look().find("line", key=f"user-{i}").number == 2}

    few, some, many = map(canaries, (0.1, 0.3, 0.9))
    assert few < some < many
    assert canaries(0.3) == some


def test_the_point_of_a_routing_key_is_the_one_that_the_specification_gives():
    digest = hashlib.sha256(b"line\nuser-7").digest()
    right = tuple(int.from_bytes(digest[start : start + 8], "big") / 2**64 for start in (0, 8))
    assert points("line", "user-7") == right


def test_two_shares_stand_side_by_side_and_stable_answers_the_rest(tmp_path, look):
    repository = three(tmp_path)
    repository.set_label("line", "b", 3, share=0.25)
    repository.set_label("line", "a", 2, share=0.25)
    catalog = look()
    for i in range(200):
        point, _ = points("line", str(i))
        assert catalog.find("line", key=str(i)).number == (2 if point < 0.25 else 3 if point < 0.5 else 1)


def test_the_share_of_a_label_whose_version_is_not_live_is_answered_by_stable(tmp_path, look, workers):
    repository = three(tmp_path)
    repository.set_label("line", "canary", 2, share=0.5)
    workers.refuse = {"line/2"}
    assert answering(look(), 100) == {1: 100}
    with pytest.raises(NotReady, match="label 'canary' of 'line' names version 2, which is not live"):
        look().find("line", label="canary")


def test_a_label_that_is_moved_to_a_bad_version_goes_on_with_the_one_it_had(tmp_path, look, workers):
    repository = three(tmp_path)
    look()
    workers.refuse = {"line/4"}
    tiny.publish(tmp_path, "line")
    repository.set_label("line", "stable", 4)
    assert look().find("line").number == 1
    assert look().failures["line/labels.json"] == (
        "line/labels.json: label 'stable' names version 4, which is not live; version 1 goes on"
    )
    repository.set_label("line", "stable", 2)
    assert look().find("line").number == 2
    assert list(look().failures) == ["line/4"]


def test_a_shadow_computes_a_share_of_what_stable_answers(tmp_path, look):
    repository = three(tmp_path)
    assert not look().has_shadows
    repository.set_label("line", "next", 3, shadow=0.25)
    catalog = look()
    assert catalog.has_shadows
    assert answering(catalog, 100) == {1: 100}
    stable, other = catalog.find("line"), catalog.find("line", 2)
    seen = [catalog.shadow_of(stable, f"user-{i}") for i in range(1000)]
    assert {str(version) for version in seen} == {"None", "line/3"}
    assert 200 < 1000 - seen.count(None) < 300
    assert catalog.shadow_of(other, "user-1") is None
    repository.remove_label("line", "next")
    assert not look().has_shadows


# --------------------------------------------------------------------------------------- how many versions are live


def test_the_newest_versions_and_those_with_a_label_are_live_and_the_others_are_retired(tmp_path, workers):
    repository, retired = three(tmp_path), []
    catalog = Catalog(repository, workers.prove, keep=2, retire=retired.append)
    asyncio.run(catalog.refresh())
    assert list(catalog.live()["line"]) == [1, 2, 3]
    tiny.publish(tmp_path, "line")
    asyncio.run(catalog.refresh())
    assert list(catalog.live()["line"]) == [1, 3, 4]
    assert list(map(str, retired)) == ["line/2"]
    repository.set_label("line", "stable", 2)  # rolled back to a version that is not open: it is, before it is asked
    asyncio.run(catalog.refresh())
    assert list(catalog.live()["line"]) == [2, 3, 4]
    assert catalog.find("line").number == 2


@pytest.mark.parametrize("says", [True, False])
def test_one_process_says_what_went_live_and_what_is_gone_and_each_what_was_refused(tmp_path, workers, caplog, says):
    caplog.set_level("INFO")
    workers.refuse = {"pair/1"}
    catalog = Catalog(Repository(tmp_path), workers.prove, says_what_is_live=says)
    for name in ("line", "pair"):
        tiny.publish(tmp_path, name)
    asyncio.run(catalog.refresh())
    shutil.rmtree(tmp_path / "line")
    asyncio.run(catalog.refresh())
    live, refused, gone = "live: line/1", "refused: pair/1", "gone: line/1"
    said = [message.partition(" (")[0] for message in caplog.messages]
    assert [one for one in said if one in (live, gone)] == ([live, gone] if says else [])
    assert any(one.startswith(refused) for one in said)


def test_bad_versions_do_not_push_a_good_one_out(tmp_path, workers):
    three(tmp_path).remove_label("line", "stable")
    catalog = Catalog(Repository(tmp_path), workers.prove, keep=1)
    asyncio.run(catalog.refresh())
    workers.refuse = {"line/4", "line/5"}
    tiny.publish(tmp_path, "line")
    tiny.publish(tmp_path, "line")
    asyncio.run(catalog.refresh())
    assert catalog.find("line").number == 3


def test_a_good_version_is_found_below_a_thousand_bad_ones(tmp_path, workers):
    tiny.publish(tmp_path, "line")
    for number in range(2, 1001):
        tiny_copy(tmp_path, number).rename(tmp_path / f"line/{number}")
    catalog = Catalog(Repository(tmp_path), workers.prove, keep=1)
    asyncio.run(catalog.refresh())
    assert len(catalog.failures) == 999  # each copy is refused, being none of its number
    assert workers.asked == ["line/1"]


def tiny_copy(root, number):
    folder = root / f"copy-{number}"
    folder.mkdir()
    (folder / "manifest.json").write_bytes((root / "line/1/manifest.json").read_bytes())
    return folder


# ------------------------------------------------------------------------------------------------ load and unload


def test_an_unloaded_model_is_not_served_until_it_is_loaded_again(tmp_path, workers):
    tiny.publish(tmp_path, "line")
    tiny.publish(tmp_path, "coin")
    unloaded, retired = set(), []
    catalog = Catalog(Repository(tmp_path), workers.prove, unloaded=lambda: frozenset(unloaded), retire=retired.append)
    asyncio.run(catalog.refresh())
    unloaded.add("line")
    asyncio.run(catalog.refresh())
    assert list(catalog.live()) == ["coin"]
    assert list(map(str, retired)) == ["line/1"]
    tiny.publish(tmp_path, "line")
    asyncio.run(catalog.refresh())
    with pytest.raises(NotReady, match="model 'line' was unloaded by request"):
        catalog.find("line")
    unloaded.clear()
    asyncio.run(catalog.refresh())
    assert catalog.find("line").number == 2


def test_a_server_whose_last_model_was_unloaded_is_ready(tmp_path, workers):
    tiny.publish(tmp_path, "line")
    catalog = Catalog(Repository(tmp_path), workers.prove, unloaded=lambda: frozenset({"line"}))
    asyncio.run(catalog.refresh())
    assert catalog.why_not_ready() is None
    with pytest.raises(UnknownModel):
        catalog.find(None)


def test_what_was_refused_is_opened_again_when_asked_to_and_what_serves_serves_on(tmp_path, workers):
    tiny.publish(tmp_path, "line")
    catalog = Catalog(Repository(tmp_path), workers.prove)
    asyncio.run(catalog.refresh())
    workers.refuse = {"line/2"}
    tiny.publish(tmp_path, "line")
    asyncio.run(catalog.refresh())
    before = catalog.find("line")
    workers.refuse = set()
    asyncio.run(catalog.refresh("coin"))
    assert catalog.find("line") is before
    asyncio.run(catalog.refresh("line"))
    assert catalog.find("line").number == 2
    assert catalog.find("line", 1) is before
    assert catalog.failures == {}


def test_new_versions_are_proven_together(tmp_path, workers):
    catalog = Catalog(Repository(tmp_path), workers.prove, keep=2)
    for name in ("line", "line", "line", "coin"):
        tiny.publish(tmp_path, name)
    asyncio.run(catalog.refresh())
    assert (workers.asked, workers.together) == (["coin/1", "line/3", "line/2"], [3])
    tiny.publish(tmp_path, "pair")
    asyncio.run(catalog.refresh())
    assert workers.together == [3, 1]
    assert {name: list(live) for name, live in catalog.live().items()} == {"coin": [1], "line": [2, 3], "pair": [1]}


def test_many_versions_are_a_few_changes_and_a_look_that_finds_none_is_no_change(tmp_path, workers):
    """Each change has every connection be let in anew."""
    for number in range(70):
        tiny.publish(tmp_path, "coin", called=f"coin-{number}")
    catalog = Catalog(Repository(tmp_path), workers.prove)
    asyncio.run(catalog.refresh())
    assert (len(catalog.live()), workers.together, catalog.changes) == (70, [32, 32, 6], 3)
    asyncio.run(catalog.refresh())  # the folders have changed so recently that they are read again
    assert (workers.together, catalog.changes) == ([32, 32, 6], 3)


def test_an_api_process_reads_of_a_version_no_more_than_its_manifest(tmp_path, workers):
    """What a worker proves it need not read: it would hold up requests."""
    version = tiny.publish(tmp_path, "line")
    graph = (version.folder / "model.onnx").read_bytes()

    async def prove(versions):
        (version.folder / "model.onnx").write_bytes(graph)
        return await workers.prove(versions)

    (version.folder / "model.onnx").write_bytes(b"not yet")
    catalog = Catalog(Repository(tmp_path), prove)
    asyncio.run(catalog.refresh())
    assert catalog.find("line").read("model.onnx") == graph
    (version.folder / "model.onnx").write_bytes(b"no longer")
    with pytest.raises(BadVersion, match="is not the file its manifest describes"):
        catalog.find("line").read("model.onnx")


def arrive(version, target, *paths):
    """Copy these files of a version to where it will be served."""
    target.mkdir(parents=True, exist_ok=True)
    for path in paths:
        shutil.copy2(version.folder / path, target / path)


@pytest.mark.parametrize(
    "order",
    [
        ("manifest.json", "model.onnx", "proof.json"),
        ("proof.json", "model.onnx", "manifest.json"),
        ("model.onnx", "manifest.json", "proof.json"),
    ],
    ids=lambda order: order[0],
)
def test_a_version_that_is_copied_into_its_place_is_refused_until_it_is_whole(tmp_path, workers, order):
    """`cp -r`, rsync and what copies out of a store of objects: files come one by one, and the manifest not last."""
    version, root = tiny.publish(tmp_path / "from", "line"), tmp_path / "to"
    catalog = Catalog(Repository(root), workers.prove)
    for path in order:
        arrive(version, root / "line/1", path)
        settle()  # the folder of the model changes no more
        asyncio.run(catalog.refresh())
        assert bool(catalog.failures) is (path != order[-1])
        asyncio.run(catalog.refresh())
    assert list(catalog.live()["line"]) == [1]


def test_a_file_that_grows_in_its_place_is_looked_at_again(tmp_path, workers):
    version, root = tiny.publish(tmp_path / "from", "line"), tmp_path / "to"
    arrive(version, root / "line/1", "manifest.json", "proof.json")
    catalog = Catalog(Repository(root), workers.prove)
    graph = (version.folder / "model.onnx").read_bytes()
    with (root / "line/1/model.onnx").open("wb", buffering=0) as file:
        for part in (graph[:10], graph[10:20], graph[20:]):
            file.write(part)
            asyncio.run(catalog.refresh())
            assert bool(catalog.failures) is (part != graph[20:])
    assert list(catalog.live()["line"]) == [1]


def test_a_version_that_is_copied_over_another_is_served_once_it_is_whole(tmp_path, workers):
    root = tmp_path / "to"
    before, after = tiny.publish(root, "line"), tiny.publish(tmp_path / "from", "line", shift=1.0)
    catalog = Catalog(Repository(root), workers.prove)
    asyncio.run(catalog.refresh())
    settle()
    for path in ("manifest.json", "model.onnx", "proof.json"):
        assert catalog.find("line").key == before.key
        arrive(after, root / "line/1", path)
        asyncio.run(catalog.refresh())
    assert (catalog.find("line").key, catalog.failures) == (after.key, {})


def test_what_is_no_part_of_a_version_stops_it_until_it_is_removed(tmp_path, look):
    version = tiny.publish(tmp_path, "line")
    (version.folder / "notes.txt").write_text("mine")
    assert look().failures == {"line/1": "line/1: 'notes.txt' is not part of it; remove the file"}
    settle()
    (version.folder / "notes.txt").unlink()
    assert list(look().live()["line"]) == [1]


def test_labels_that_are_written_in_place_take_effect(tmp_path, look):
    """As `cp` and most editors write them: nothing changes of the folder that they are in."""
    tiny.publish(tmp_path, "line")
    tiny.publish(tmp_path, "line")
    Repository(tmp_path).set_label("line", "stable", 1)
    settle()
    assert look().find("line").number == 1
    labels = tmp_path / "line/labels.json"
    labels.write_text(labels.read_text().replace("1", "2"))
    assert look().find("line").number == 2


def test_what_changes_after_a_look_and_before_the_folder_is_read_is_seen(tmp_path):
    tiny.publish(tmp_path, "line")
    settle()
    folders = Folders(Repository(tmp_path))
    assert folders.look((), frozenset()) == (None, ["line"])
    tiny.publish(tmp_path, "line")
    assert list(folders.read(["line"])[1]["line"].stamps) == [1, 2]
    assert folders.look(["line"], frozenset()) == (None, ["line"])


def test_several_models_that_changed_are_taken_over_alone_where_others_are_live(tmp_path, workers):
    turns = []

    @contextlib.asynccontextmanager
    async def alone():
        before = len(workers.asked)
        yield
        turns.append(len(workers.asked) - before)

    catalog = Catalog(Repository(tmp_path), workers.prove, alone=alone)
    for names, expected in ((("line",), []), (("coin", "pair"), [2]), (("line",), [])):
        for name in names:
            tiny.publish(tmp_path, name)
        asyncio.run(catalog.refresh())
        assert turns == expected
        settle()
        asyncio.run(catalog.refresh())
        turns.clear()


async def watched(catalog, is_enough):
    """Have a catalogue watch its repository until it has what is asked for."""
    watch = asyncio.create_task(catalog.watch(0.01))
    while not is_enough():
        await next_turn(0.01)
    watch.cancel()


def test_many_new_models_come_a_few_at_a_time_where_others_are_asked_with_rests_in_between(tmp_path, workers):
    rests = []

    async def rest(seconds):
        rests.append((seconds, len(workers.asked)))

    tiny.publish(tmp_path, "line")
    catalog = Catalog(Repository(tmp_path), workers.prove, rest=rest)
    asyncio.run(catalog.refresh())
    for number in range(40):
        tiny.publish(tmp_path, "coin", called=f"coin-{number}")
    asyncio.run(watched(catalog, lambda: len(catalog.live()) == 41))
    assert sum(workers.together) == 41
    assert max(workers.together) <= 16
    assert len(rests) == len(workers.together) - 2  # none before the first of them, and none after the last
    assert all(0 < seconds <= 2 and proven < 41 for seconds, proven in rests)


def test_who_wants_many_new_models_at_once_has_them_while_another_look_rests(tmp_path, workers):
    async def story():
        rests = asyncio.Event()

        async def rest(_):
            rests.set()
            await asyncio.Event().wait()  # for ever

        catalog = Catalog(Repository(tmp_path), workers.prove, rest=rest)
        await catalog.refresh()
        for number in range(40):
            tiny.publish(tmp_path, "coin", called=f"coin-{number}")
        watch = asyncio.create_task(catalog.watch(0.01))
        await rests.wait()
        assert len(catalog.live()) <= 1 + 16
        await catalog.refresh()
        assert len(catalog.live()) == 1 + 40
        watch.cancel()

    tiny.publish(tmp_path, "line")
    asyncio.run(story())


def test_what_changes_of_a_live_model_does_not_wait_for_new_ones(tmp_path, workers):
    answered = []

    async def rest(_):
        answered.append(catalog.find("line").number)

    for _ in range(2):
        tiny.publish(tmp_path, "line")
    catalog = Catalog(Repository(tmp_path), workers.prove, rest=rest)
    asyncio.run(catalog.refresh())
    for number in range(40):
        tiny.publish(tmp_path, "coin", called=f"coin-{number}")
    Repository(tmp_path).set_label("line", "stable", 1)
    asyncio.run(watched(catalog, lambda: len(catalog.live()) == 41))
    assert answered[0] == 1
