"""Cost grows with rows and with nothing else: requests/s for 1 to 1000 models, 2 to 500 features, 1 to 100,000 rows."""

import time
from pathlib import Path
from typing import Any

from benchmarks.serving.kinds import Body, numbers, oip_binary, plain_json, texts
from benchmarks.serving.load import measure
from benchmarks.serving.published import FEATURES, MODELS, SERVED, WIDE, many_of, tiny
from benchmarks.serving.servers import ask, rowcast, with_key

ROWS = (1, 10, 100, 1000, 10_000, 100_000)
_BEYOND = 100_001
_CONNECTIONS = 16
_START_S = 300.0


def measure_once(port: int, seconds: int) -> dict[str, list[dict[str, Any]]]:
    """All three series."""
    return {
        "models": [_of_models(models, port, seconds) for models in MODELS],
        "features": _of_features(port, seconds),
        "rows": _of_rows(port, seconds),
    }


def _of_models(models: int, port: int, seconds: int) -> dict[str, Any]:
    """One of so many models is asked, then all of them in turn."""
    row = with_key(plain_json(texts(numbers(1))))
    paths = [_path(tiny(place)) for place in range(models)]
    started = time.monotonic()
    with rowcast(many_of(models), port, paths[-1], row, start_s=_START_S) as process:
        ready_s = time.monotonic() - started
        for path in paths:
            _must_answer(port, path, row)
        seen = {
            "models": models,
            "ready_s": round(ready_s, 1),
            "one": measure(process, port, paths[:1], row, connections=_CONNECTIONS, seconds=seconds),
            "all": measure(process, port, paths, row, connections=_CONNECTIONS, seconds=seconds),
        }
    print(f"scaling: {seen}")
    return seen


def _of_features(port: int, seconds: int) -> list[dict[str, Any]]:
    series = []
    with _serving(WIDE, port, "wide-2") as process:
        for features in FEATURES:
            row = with_key(plain_json(texts(numbers(1, features))))
            _must_answer(port, _path(f"wide-{features}"), row)
            seen = measure(process, port, [_path(f"wide-{features}")], row, connections=_CONNECTIONS, seconds=seconds)
            series.append({"features": features} | seen)
            print(f"scaling: {series[-1]}")
    return series


def _of_rows(port: int, seconds: int) -> list[dict[str, Any]]:
    """As JSON and as bytes; what is beyond the limit is refused by a sentence that says so."""
    series = []
    with _serving(SERVED, port, "bench") as process:
        for rows in ROWS:
            matrix = numbers(rows)
            forms = {
                "JSON": (_path("bench"), with_key(plain_json(texts(matrix)))),
                "binary": ("/v2/models/bench/infer", with_key(oip_binary(matrix))),
            }
            connections, lasting = (_CONNECTIONS, seconds) if rows <= 1000 else (1, max(seconds, 5))
            one: dict[str, Any] = {"rows": rows, "connections": connections}
            for form, (path, body) in forms.items():
                _must_answer(port, path, body)
                one[form] = measure(process, port, [path], body, connections=connections, seconds=lasting)
            series.append(one)
            print(f"scaling: {one}")
        status, said = ask(port, _path("bench"), with_key(plain_json(texts(numbers(_BEYOND)))))
        series.append({"rows": _BEYOND, "status": status, "said": said.decode()[:300]})
        print(f"scaling: {series[-1]}")
    return series


def _serving(repository: Path, port: int, model: str) -> Any:
    features = 2
    return rowcast(repository, port, _path(model), with_key(plain_json(texts(numbers(1, features)))))


def _path(model: str) -> str:
    return f"/v1/models/{model}:predict"


def _must_answer(port: int, path: str, body: Body) -> None:
    """Ask once; a model that was not asked before opens its session in an API process then."""
    status, said = ask(port, path, body)
    assert status == 200, f"{path} answers {status}: {said[:300]!r}"
