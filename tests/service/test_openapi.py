import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from models.features import CategoryFeature, NumberFeature
from models.schema import Schema
from service.app import openapi
from service.app.openapi_schemas import schemas_of
from service.problems import NotReady
from tests.service import tiny
from tests.service.conftest import Shelf


@pytest.fixture
def document(client):
    return client.get("/openapi.json").json()


def validator(document, name):
    """What checks a JSON value against one of the document's schemas."""
    ref = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    return Draft202012Validator(ref)


def test_it_is_valid_openapi(document):
    assert [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()] == []


def test_every_live_version_and_label_has_its_path(document):
    assert {path for path in document["paths"] if path.startswith("/v1/models/line")} == {
        "/v1/models/line",
        "/v1/models/line:predict",
        "/v1/models/line/versions/1:predict",
        "/v1/models/line/versions/2:predict",
        "/v1/models/line/labels/stable:predict",
        "/v1/models/line/labels/canary:predict",
    }


def operations(document):
    """Path, method and operation."""
    for path, methods in document["paths"].items():
        for method in methods.keys() & {"get", "post", "put", "delete"}:
            yield path, method, methods[method]


def test_every_path_is_answered(client, document):
    for path, method, operation in operations(document):
        answer = client.request(method.upper(), path.format(model="line", label="next"), json={})
        assert answer.status_code == 403 if "{model}" in path else answer.status_code in (200, 400), path
        assert str(answer.status_code) in operation["responses"] or answer.status_code == 200


def test_what_changes_the_repository_is_described(document):
    orders = {(path, method) for path, method, one in operations(document) if one.get("tags") == ["repository"]}
    assert orders == {
        ("/v2/repository/index", "post"),
        ("/v2/repository/models/{model}/load", "post"),
        ("/v2/repository/models/{model}/unload", "post"),
        ("/v1/models/{model}/labels/{label}", "put"),
        ("/v1/models/{model}/labels/{label}", "delete"),
    }


def test_a_report_has_a_path_where_there_is_one(client, front, tmp_path):
    tiny.publish(tmp_path, "line", report={"index.html": b"<h1>line</h1>"})
    tiny.publish(tmp_path, "coin")
    front.catalog = Shelf(tmp_path)
    document = client.get("/openapi.json").json()
    reports = [path for path in document["paths"] if path.endswith("/report")]
    assert reports == ["/v1/models/line/report", "/v1/models/line/versions/1/report"]
    for path in reports:
        answer = client.get(path)
        assert answer.text == "<h1>line</h1>"
        assert (
            answer.headers["content-type"].partition(";")[0]
            in document["paths"][path]["get"]["responses"]["200"]["content"]
        )


def test_operations_have_names_of_their_own(document):
    names = [one["operationId"] for _, _, one in operations(document)]
    assert len(set(names)) == len(names)


def test_examples_are_as_the_document_says_and_so_are_their_answers(client, document):
    posts = {path: methods["post"] for path, methods in document["paths"].items() if "post" in methods}
    posts = {path: post for path, post in posts.items() if path.endswith(":predict")}
    for path, post in posts.items():
        content = post["requestBody"]["content"]["application/json"]
        answer = client.post(path, json=content["example"])
        assert answer.status_code == 200
        name = content["schema"]["$ref"].rsplit("/", 1)[1].removesuffix(".Request")
        validator(document, f"{name}.Request").validate(content["example"])
        validator(document, f"{name}.Answer").validate(answer.json())


FORMS = [lambda row: [row], lambda row: row, lambda row: [list(row.values())], lambda row: list(row.values())]


@pytest.mark.parametrize("name", sorted(tiny.SCHEMAS))
@pytest.mark.parametrize("form", range(len(FORMS)))
@pytest.mark.parametrize("key", ["instances", "inputs"])
def test_a_body_in_any_form_is_as_the_document_says(client, document, name, form, key):
    body = {key: FORMS[form](tiny.ROWS[name])}
    validator(document, f"{name}.{2 if name == 'line' else 1}.Request").validate(body)
    assert client.post(f"/v1/models/{name}:predict", json=body).status_code == 200


@pytest.mark.parametrize("name", sorted(tiny.SCHEMAS))
def test_columns_are_as_the_document_says(client, document, name):
    body = {"inputs": {feature: [value, None] for feature, value in tiny.ROWS[name].items()}}
    validator(document, f"{name}.{2 if name == 'line' else 1}.Request").validate(body)
    assert client.post(f"/v1/models/{name}:predict", json=body).status_code == 200


@pytest.mark.parametrize(
    "row",
    [
        {},
        tiny.ROWS["flowers"] | {"width": "5"},
        tiny.ROWS["flowers"] | {"wild": 2},
        tiny.ROWS["flowers"] | {"more": 1},
        [1, 2, "red", True],
    ],
)
def test_what_the_document_forbids_is_refused(client, document, row):
    body = {"instances": [row]}
    assert not validator(document, "flowers.1.Request").is_valid(body)
    assert client.post("/v1/models/flowers:predict", json=body).status_code == 400


def test_a_problem_is_as_the_document_says(client, document):
    answer = client.post("/v1/models/flowers:predict", json={"instances": [{}]})
    validator(document, "Problem").validate(answer.json())


def test_units_ranges_and_missing_shares_are_told(document):
    width = document["components"]["schemas"]["flowers.1.Row"]["properties"]["width"]
    assert width == {
        "type": ["number", "null"],
        "description": "In cm. From -10 to 10 in the training rows. Missing in 10% of the training rows.",
    }


def test_a_feature_with_very_many_categories_tells_their_number(versions):
    many = CategoryFeature(name="c", categories=tuple(f"value {i}" for i in range(101)))
    manifest = versions["line"].manifest.model_copy(update={"input": Schema(features=(many, NumberFeature(name="x")))})
    row = schemas_of(type(versions["line"])(versions["line"].folder, manifest))["line.2.Row"]
    assert row["properties"]["c"]["description"] == "One of 101 categories; another one counts as unknown."


def test_the_key_is_asked_for_where_it_is_needed(client, key):
    document = client.get("/openapi.json", headers={"x-api-key": key}).json()
    assert document["security"] == [{"bearer": []}, {"header": []}]
    assert document["paths"]["/health/ready"]["get"]["security"] == []


def test_it_is_made_once_until_something_changes(client, front, tmp_path):
    """Of 1000 models it takes half a second of a core, and whoever may predict may ask."""
    version = tiny.publish(tmp_path, "line")
    front.catalog = Shelf(tmp_path)

    def has_example():
        content = client.get("/openapi.json").json()["paths"]["/v1/models/line:predict"]["post"]["requestBody"]
        return "example" in content["content"]["application/json"]

    assert has_example()
    (version.folder / "proof.json").unlink()
    assert has_example()
    front.catalog.changes += 1
    assert not has_example()


def test_without_models_there_is_a_document_all_the_same(tmp_path):
    document = openapi.document(openapi.prediction_paths(Shelf(tmp_path)), needs_key=False)
    assert "/predict" in document["paths"]
    assert [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()] == []


def test_a_model_whose_proof_is_gone_is_described_without_an_example(tmp_path):
    version = tiny.publish(tmp_path, "line")
    (version.folder / "proof.json").unlink()
    document = openapi.document({"/v1/models/line:predict": version}, needs_key=False)
    body = document["paths"]["/v1/models/line:predict"]["post"]["requestBody"]
    assert "example" not in body["content"]["application/json"]


def test_a_label_whose_version_is_not_live_takes_no_page_away(client, front, monkeypatch):
    def find(*_):
        raise NotReady("label 'stable' of 'line' names version 3, which is not live")

    monkeypatch.setattr(front.catalog, "find", find)
    monkeypatch.setattr(front.catalog, "labels", lambda name: {"stable": 3} if name == "line" else {})
    paths = client.get("/openapi.json").json()["paths"]
    assert "/v1/models/line/versions/2:predict" in paths
    assert not paths.keys() & {"/v1/models/line:predict", "/v1/models/line/labels/stable:predict"}
