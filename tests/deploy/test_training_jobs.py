"""The Jobs that search and fit on several machines are what Kubernetes takes, and their commands are ours."""

import shlex
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from training.command import app

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes" / "training"
RESOURCES = [(path.name, one) for path in sorted(FOLDER.glob("*.yaml")) for one in yaml.safe_load_all(path.read_text())]
JOBS = {one["metadata"]["name"]: one["spec"]["template"]["spec"] for _, one in RESOURCES if one["kind"] == "Job"}


@pytest.mark.parametrize("resource", [one for _, one in RESOURCES], ids=[f"{n}-{one['kind']}" for n, one in RESOURCES])
def test_kubernetes_own_schemas_take_it_without_an_unknown_field(resource):
    kubernetes_validate.validate(resource, "1.35", strict=True)


def test_a_field_that_kubernetes_does_not_know_is_refused():
    (job,) = (one for name, one in RESOURCES if name == "search.yaml")
    wrong = {**job, "spec": {**job["spec"], "paralelism": 4}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.35", strict=True)


@pytest.mark.parametrize("job", sorted(JOBS))
def test_its_words_are_options_of_the_command(job):
    words = JOBS[job]["containers"][0]["args"]
    words = words[words.index("training") + 1 :] if "training" in words else words
    command, bound, _ = app.parse_args(shlex.join(words), exit_on_error=False)
    assert command.__name__ == ("find" if "search" in job else "train")
    assert all(word.split("=")[0].lstrip("-").replace("-", "_") in bound.arguments for word in words if "=" in word)


@pytest.mark.parametrize("job", sorted(JOBS))
def test_its_volumes_are_there_and_its_root_is_read_only(job):
    (container,) = JOBS[job]["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in JOBS[job]["volumes"]}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert JOBS[job]["securityContext"]["runAsNonRoot"] is True


def test_the_ranks_meet_at_the_first_pod():
    service = next(one for _, one in RESOURCES if one["kind"] == "Service")
    fit = next(one for _, one in RESOURCES if one["metadata"]["name"] == "rowcast-fit" and one["kind"] == "Job")
    words = dict(word.split("=") for word in JOBS["rowcast-fit"]["containers"][0]["args"] if "=" in word)
    assert words["--master-addr"] == f"{fit['metadata']['name']}-0.{service['metadata']['name']}"
    assert JOBS["rowcast-fit"]["subdomain"] == service["metadata"]["name"]
    assert int(words["--nnodes"]) == fit["spec"]["completions"] == fit["spec"]["parallelism"]
    labels = fit["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
