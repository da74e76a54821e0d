"""The least that a Python server can do: raw ASGI on uvicorn, orjson, and batches of what one turn of the loop brought.

No limits, no deadlines, no checks, no metrics: what Rowcast's own of these cost shows beside it.
"""

import asyncio
import os

import numpy as np
import orjson
import uvicorn
from session import matrix_in, matrix_of, open_session

BINARY = bool(os.environ.get("BINARY"))
KIND = b"application/octet-stream" if BINARY else b"application/json"
MOST_ROWS_TO_BATCH = 64
run = open_session()
waiting: list[tuple[np.ndarray, asyncio.Future]] = []


def run_all() -> None:
    jobs, waiting[:] = list(waiting), []
    outputs, start = run(np.concatenate([matrix for matrix, _ in jobs])), 0
    for matrix, answer in jobs:
        answer.set_result(outputs[start : start + len(matrix)])
        start += len(matrix)


async def predict(matrix):
    if len(matrix) > MOST_ROWS_TO_BATCH:
        return run(matrix)
    loop = asyncio.get_running_loop()
    answer = loop.create_future()
    if not waiting:
        loop.call_soon(run_all)
    waiting.append((matrix, answer))
    return await answer


async def app(scope, receive, send) -> None:
    if scope["type"] != "http":
        return
    raw, more = b"", True
    while more:
        message = await receive()
        raw, more = raw + message["body"], message.get("more_body", False)
    output = await predict(matrix_in(raw) if BINARY else matrix_of(orjson.loads(raw)["instances"]))
    if BINARY:
        body = output.tobytes()
    else:
        body = orjson.dumps({"probabilities": np.ascontiguousarray(output)}, option=orjson.OPT_SERIALIZE_NUMPY)
    headers = [(b"content-type", KIND), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    uvicorn.run(
        "asgi_server:app",
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        workers=int(os.environ["WORKERS"]),
        loop="uvloop",
        http="httptools",
        lifespan="off",
        access_log=False,
        log_level="warning",
    )
