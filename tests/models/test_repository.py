import contextlib
import json
import os
import re
import shutil
import socket
from pathlib import Path

import pytest

from models.difference import difference
from models.errors import BadChange, BadName, BadVersion
from models.labels import Label
from models.manifest import Scores
from models.repository import Repository, Version
from models.schema import Schema
from tests.models import sample
from tests.models.sample import bytes_below, fill, manifest

NAMES = ["..", "/", "", "größe", "x" * 200, "a/b", "../house", "house/1"]


@pytest.fixture
def repository(tmp_path):
    repository = Repository(tmp_path / "published")
    repository.publish("house", fill)
    return repository


@pytest.fixture
def folder(repository):
    return repository.root / "house/1"


def refusal(folder):
    """The one sentence that says why a folder is no version."""
    with pytest.raises(BadVersion) as caught:
        Version.open(folder)
    sentence = str(caught.value)
    assert sentence.startswith(f"{folder.parent.name}/{folder.name}: ")
    assert sentence.isprintable()
    assert len(sentence) < 500
    return caught.value.reason


def test_a_version_that_was_published_opens(repository, folder):
    version = repository.open("house", 1)
    assert (str(version), version.name, version.number) == ("house/1", "house", 1)
    assert version.folder == folder
    assert sorted(version.manifest.files) == ["model.onnx", "proof.json", "report/card.html"]
    assert version.read("report/card.html") == b"<title>house</title>"
    assert version.proof().answers == {"prediction": [[2.0]]}
    assert version.schema.names == ("size", "place", "garden", "sold")
    assert {version} == {repository.open("house", 1)}


def test_reading_a_repository_writes_nothing(repository):
    before = bytes_below(repository.root)
    repository.names(), repository.versions("house"), repository.open("house", 1), repository.labels("house")
    repository.versions("nobody"), repository.labels("nobody")
    assert bytes_below(repository.root) == before


def test_a_version_opens_by_a_relative_path(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert str(Version.open(Path("1"))) == "house/1"


# ------------------------------------------------------------------------------------------- damage to the bytes


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "proof.json", "report/card.html"])
def test_a_flipped_bit_in_any_byte_of_any_file_refuses_the_version(folder, name):
    path = folder / name
    right = path.read_bytes()
    for place in range(len(right)):
        wrong = bytearray(right)
        wrong[place] ^= 1 << (place % 8)
        path.write_bytes(wrong)
        reason = refusal(folder)
        assert name in reason or reason.startswith("format ")
    path.write_bytes(right)
    assert Version.open(folder)


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "proof.json", "report/card.html"])
def test_a_file_cut_anywhere_or_grown_refuses_the_version(folder, name):
    path = folder / name
    right = path.read_bytes()
    for size in {0, 1, len(right) // 2, len(right) - 1}:
        path.write_bytes(right[:size])
        assert name in refusal(folder)
    path.write_bytes(right + b"\n")
    assert name in refusal(folder)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("model.onnx", "is not the file its manifest describes"), ("manifest.json", "is larger than 268435456 bytes")],
)
def test_a_file_that_pretends_to_be_huge_is_not_read_to_its_end(folder, name, reason):
    with (folder / name).open("r+b") as file:
        file.truncate(2**40)  # a hole takes no room on the disk
    assert refusal(folder) == f"{name} {reason}; publish it again"


def test_two_files_that_changed_places_are_refused(folder):
    (folder / "model.onnx").rename(folder / "x")
    (folder / "proof.json").rename(folder / "model.onnx")
    (folder / "x").rename(folder / "proof.json")
    assert "model.onnx" in refusal(folder)


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "proof.json", "report/card.html"])
def test_a_file_that_is_absent_refuses_the_version(folder, name):
    (folder / name).unlink()
    assert refusal(folder) == f"{name} is absent; publish it again"


@pytest.mark.parametrize("name", ["extra", ".hidden", "report/extra.png", "new\nline", "\udcff"])
def test_a_file_that_the_manifest_does_not_list_refuses_the_version(folder, name):
    (folder / name).touch()
    assert refusal(folder).endswith("is not part of it; remove the file")


def test_a_version_without_the_files_that_serving_needs_is_refused(tmp_path):
    folder = tmp_path / "house/1"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_bytes(manifest(files={}).to_json())
    assert refusal(folder) == "it has no model.onnx; publish it again"


# ------------------------------------------------------------------------------------- things that are no plain file


def link_to_a_copy(path):
    shutil.move(path, path.parents[2] / "copy")
    path.symlink_to(path.parents[2] / "copy")


def folder_in_its_place(path):
    path.unlink()
    path.mkdir()


def pipe_in_its_place(path):
    path.unlink()
    os.mkfifo(path)


def socket_in_its_place(path):
    path.unlink()
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path.name)  # the name of a socket may have 100 characters


def device_in_its_place(path):
    path.unlink()
    path.symlink_to("/dev/zero")


def nothing_may_read_it(path):
    if os.geteuid() == 0:
        pytest.skip("the superuser may read everything")
    path.chmod(0)


@pytest.mark.parametrize(
    "replace",
    [
        link_to_a_copy,
        folder_in_its_place,
        pipe_in_its_place,
        socket_in_its_place,
        device_in_its_place,
        nothing_may_read_it,
    ],
)
@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "proof.json"])
def test_what_is_no_plain_file_refuses_the_version_without_being_waited_for(folder, name, replace):
    replace(folder / name)
    assert name in refusal(folder)


def test_a_link_is_called_one(folder):
    link_to_a_copy(folder / "model.onnx")
    assert refusal(folder) == "model.onnx is a link, no plain file"


def test_a_pipe_that_somebody_writes_to_is_not_read_either(folder):
    right = (folder / "model.onnx").read_bytes()
    pipe_in_its_place(folder / "model.onnx")
    reader = os.open(folder / "model.onnx", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(folder / "model.onnx", os.O_WRONLY)
    os.write(writer, right)
    assert refusal(folder) == "model.onnx is no plain file"
    os.close(reader), os.close(writer)


def test_a_folder_that_is_a_link_elsewhere_refuses_the_version(folder, tmp_path):
    shutil.move(folder / "report", tmp_path / "report")
    (folder / "report").symlink_to(tmp_path / "report")
    assert refusal(folder) == "'report' is not part of it; remove the file"


# ------------------------------------------------------------------------------------------ the place of a version


@pytest.mark.parametrize("to", ["house/2", "house/01", "barn/1", "house/1.0"])
def test_a_version_that_was_moved_or_copied_is_refused(repository, folder, to):
    shutil.copytree(folder, repository.root / to)
    assert refusal(repository.root / to) == "manifest.json says it is house/1; a version is never moved or copied"


@pytest.mark.parametrize("number", [0, -1, 2, 10**30])
def test_a_version_that_is_not_there_is_refused(repository, number):
    with pytest.raises(BadVersion, match=f"house/{number}: manifest.json is absent"):
        repository.open("house", number)


def test_a_file_where_a_version_should_be_is_refused(repository):
    (repository.root / "house/2").touch()
    assert "cannot be read" in refusal(repository.root / "house/2")


def test_only_folders_with_a_plain_number_are_versions(repository):
    for entry in ("0", "02", "2.0", "-3", "x", "٣", ".4", "5 "):
        (repository.root / "house" / entry).mkdir()
    (repository.root / "house/6").touch()
    (repository.root / "house/70").mkdir()
    assert repository.versions("house") == [1, 70]


def test_versions_rise_by_number_and_not_by_text(repository):
    for _ in range(10):
        repository.publish("house", fill)
    assert repository.versions("house") == list(range(1, 12))


def test_only_folders_with_a_version_and_a_name_are_models(repository):
    repository.publish("barn", lambda draft: fill(draft, "barn"))
    for entry in ("lost+found", ".git", "empty", "größe/1", "notes/drafts"):
        (repository.root / entry).mkdir(parents=True)
    (repository.root / "README.md").touch()
    assert repository.names() == ["barn", "house"]


def test_a_repository_that_does_not_exist_is_empty(tmp_path):
    repository = Repository(tmp_path / "nowhere")
    assert repository.names() == []
    assert repository.versions("house") == []
    assert repository.labels("house") == {}
    with pytest.raises(BadVersion, match=r"house/1: manifest\.json is absent"):
        repository.open("house", 1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "ask",
    [
        lambda repository, name: repository.versions(name),
        lambda repository, name: repository.open(name, 1),
        lambda repository, name: repository.labels(name),
        lambda repository, name: repository.publish(name, fill),
        lambda repository, name: repository.set_label(name, "stable", 1),
        lambda repository, name: repository.set_label("house", name, 1),
        lambda repository, name: repository.remove_label("house", name),
        lambda repository, name: repository.remove_label(name, "stable"),
        lambda repository, name: repository.routes(name),
        lambda repository, name: repository.roll_back(name),
        lambda repository, name: repository.delete(name, 1),
        lambda repository, name: repository.verify(name),
    ],
)
def test_a_name_that_could_lead_elsewhere_is_refused_everywhere(repository, name, ask):
    before = bytes_below(repository.root.parent)
    with pytest.raises(BadName):
        ask(repository, name)
    assert bytes_below(repository.root.parent) == before


# ------------------------------------------------------------------------------------------------------- labels


def test_labels_point_at_versions_and_move_and_go(repository):
    repository.publish("house", fill)
    repository.set_label("house", "stable", 1)
    repository.set_label("house", "canary", 2)
    assert repository.labels("house") == {"stable": 1, "canary": 2}

    repository.set_label("house", "stable", 2)
    assert repository.remove_label("house", "canary")
    assert not repository.remove_label("house", "never-set")

    assert repository.labels("house") == {"stable": 2}
    assert (repository.root / "house/labels.json").read_text() == '{\n "stable": 2\n}\n'


def test_a_label_never_points_at_what_does_not_open(repository, folder):
    repository.set_label("house", "stable", 1)
    for number in (0, 2):
        with pytest.raises(BadVersion, match="is not there; of house there are 1"):
            repository.set_label("house", "stable", number)
    (folder / "model.onnx").write_bytes(b"")
    with pytest.raises(BadVersion, match=r"model\.onnx is not the file"):
        repository.set_label("house", "canary", 1)
    assert repository.labels("house") == {"stable": 1}


class DeletedOnceOpened(Repository):
    """Another process deletes a version as soon as this one has opened it."""

    def open(self, name, number):
        version = super().open(name, number)
        Repository(self.root).delete(name, number)
        return version


def test_a_label_never_points_at_a_version_that_was_deleted_meanwhile(repository):
    with pytest.raises(BadVersion, match="is not there: it was deleted just now"):
        DeletedOnceOpened(repository.root).set_label("house", "stable", 1)
    assert repository.labels("house") == {}


def test_a_label_of_a_model_that_nobody_published_is_refused(repository):
    with pytest.raises(BadVersion):
        repository.set_label("barn", "stable", 1)
    with pytest.raises(BadVersion):
        repository.remove_label("barn", "stable")
    assert not (repository.root / "barn").exists()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"1",
        b'{"a": "1"}',
        b'{"a": 1.0}',
        b'{"a": true}',
        b'{"a": 0}',
        b'{"../b": 1}',
        b'{"a": null}',
        b'{"stable": 1, "stable": 2}',
        b'{"a": {"share": 0.5}, "stable": 1}',
        b'{"a": {"version": 1, "share": "0.5"}, "stable": 1}',
        b'{"a": {"version": 1, "share": true}, "stable": 1}',
        b'{"a": {"version": 1, "share": NaN}, "stable": 1}',
        b'{"a": {"version": 1, "share": -0.1}, "stable": 1}',
        b'{"a": {"version": 1, "share": 1.1}, "stable": 1}',
        b'{"a": {"version": 1, "share": 1' + b"0" * 400 + b'}, "stable": 1}',
        b'{"a": {"version": 1, "part": 0.5}, "stable": 1}',
        b'{"a": {"version": 1, "share": 0.5}}',
        b'{"stable": {"version": 1, "share": 0.5}}',
        b'{"a": {"version": 1, "share": 0.5, "shadow": 0.5}, "stable": 1}',
        b'{"a": {"version": 1, "share": 0.6}, "b": {"version": 1, "share": 0.6}, "stable": 1}',
        b'{"a": {"version": 1, "shadow": 0.6}, "b": {"version": 1, "shadow": 0.6}, "stable": 1}',
        b"[" * 100_000,
    ],
)
def test_labels_that_nobody_set_this_way_are_refused_with_what_to_do(repository, raw):
    (repository.root / "house/labels.json").write_bytes(raw)
    with pytest.raises(BadVersion, match=r"house/labels\.json: .*remove the file and set the labels again") as caught:
        repository.labels("house")
    assert str(caught.value).isprintable()


def test_labels_that_are_no_plain_file_are_refused_without_being_waited_for(repository):
    os.mkfifo(repository.root / "house/labels.json")
    with pytest.raises(BadVersion, match=r"labels\.json is no plain file"):
        repository.labels("house")


def test_labels_that_are_elsewhere_are_not_taken_for_none(repository):
    (repository.root / "house/labels.json").symlink_to("a volume that is away")
    with pytest.raises(BadVersion, match=r"labels\.json is a link, no plain file"):
        repository.labels("house")


# ------------------------------------------------------------------------------------------------------- shares


@pytest.fixture
def three(repository):
    """house 1, 2 and 3, of which 1 is stable."""
    repository.publish("house", fill)
    repository.publish("house", fill)
    repository.set_label("house", "stable", 1)
    return repository


def test_a_label_has_a_share_of_the_traffic_or_is_a_shadow(three):
    three.set_label("house", "canary", 2, share=0.05)
    three.set_label("house", "next", 3, shadow=1)
    assert three.routes("house") == {"stable": Label(1), "canary": Label(2, share=0.05), "next": Label(3, shadow=1.0)}
    assert three.labels("house") == {"stable": 1, "canary": 2, "next": 3}
    assert json.loads((three.root / "house/labels.json").read_text()) == {
        "stable": 1,
        "canary": {"version": 2, "share": 0.05},
        "next": {"version": 3, "shadow": 1},
    }
    three.set_label("house", "canary", 3)  # moved without a share, it has none
    assert three.routes("house")["canary"] == Label(3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: r.set_label("house", "canary", 2, share=1.5), "the share of label 'canary' must be from 0 to 1"),
        (lambda r: r.set_label("house", "canary", 2, share=float("nan")), "must be from 0 to 1, got nan"),
        (lambda r: r.set_label("house", "stable", 2, share=0.5), "'stable' must have no share"),
        (lambda r: r.set_label("house", "canary", 2, share=0.1, shadow=0.1), "a share or be a shadow, not both"),
        (lambda r: r.set_label("house", "b", 2, share=0.6), "shares of all labels together must be at most 1"),
        (lambda r: r.set_label("house", "b", 2, shadow=0.6), "one label alone may be a shadow, not 'b' and 'c'"),
        (lambda r: r.remove_label("house", "stable"), "must have no share while no 'stable' answers the rest"),
        (lambda r: r.delete("house", 2), "house/2: label 'a' names it"),
    ],
)
def test_a_change_that_cannot_be_is_refused_and_changes_nothing(three, change, reason):
    three.set_label("house", "a", 2, share=0.5)
    three.set_label("house", "c", 3, shadow=0.5)
    before = bytes_below(three.root)
    with pytest.raises(BadChange, match=re.escape(reason)):
        change(three)
    assert bytes_below(three.root) == before


# ------------------------------------------------------------------------------------- roll back, delete, verify


def test_rolling_back_names_the_next_older_version_that_opens(three):
    three.remove_label("house", "stable")
    assert three.roll_back("house") == 2  # 3 answered, as the latest
    three.set_label("house", "stable", 3)
    (three.root / "house/2/model.onnx").unlink()
    assert three.roll_back("house") == 1
    assert three.labels("house") == {"stable": 1}
    with pytest.raises(BadChange, match="house: no version older than 1 opens"):
        three.roll_back("house")
    with pytest.raises(BadChange, match="barn: has no versions"):
        three.roll_back("barn")


def test_a_deleted_version_is_gone_at_once_and_its_number_never_comes_back(three):
    version = three.open("house", 3)
    (three.root / "house/.last").unlink()
    three.delete("house", 3)
    assert three.versions("house") == [1, 2]
    assert [path.name for path in (three.root / "house").glob(".draft-*")] == []
    with pytest.raises(BadVersion, match="house/3: is not there"):
        three.delete("house", 3)
    with pytest.raises(BadVersion):
        version.read("model.onnx")
    assert three.publish("house", fill) == 4


def test_a_deletion_that_died_is_cleared_by_the_next_publish(three, monkeypatch):
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    three.delete("house", 3)
    monkeypatch.undo()
    assert len(list((three.root / "house").glob(".draft-*"))) == 1
    three.publish("house", fill)
    assert list((three.root / "house").glob(".draft-*")) == []


def test_verifying_names_everything_that_is_wrong(three):
    three.publish("barn", lambda draft: fill(draft, "barn"))
    assert three.verify() == {}
    three.set_label("house", "old", 2)
    shutil.rmtree(three.root / "house/2")
    (three.root / "house/3/proof.json").write_bytes(b"{}")
    (three.root / "barn/labels.json").write_bytes(b"[]")
    assert three.verify("house") == {
        "house/3": "proof.json is not the file its manifest describes; publish it again",
        "house/labels.json": "label 'old' names version 2, which is not there",
    }
    assert sorted(three.verify()) == ["barn/labels.json", "house/3", "house/labels.json"]


def test_two_versions_differ_in_what_they_say_of_themselves(three):
    old = three.open("house", 1)

    def other(draft):
        describe = fill(draft)
        size, *rest = sample.EVERY_KIND.features
        schema = Schema(datatype="FP64", features=(*rest, size.model_copy(update={"unit": "m"})))
        scores = {"test": Scores(rows=10, metrics={"rmse": 0.4, "r2": None})}
        changes = {"input": schema, "scores": scores, "weights": "cd" * 32}
        return lambda number, files: sample.manifest(version=number, files=describe(number, files).files, **changes)

    new = three.open("house", three.publish("house", other))
    assert difference(old, three.open("house", 2)) == []
    assert [(change.what, change.before, change.after) for change in difference(old, new)] == [
        ("input.features.size.unit", None, "m"),
        ("input.order", ["size", "place", "garden", "sold"], ["place", "garden", "sold", "size"]),
        ("scores.test.metrics.rmse", 0.5, 0.4),
        ("weights", "ab" * 32, "cd" * 32),
    ]
