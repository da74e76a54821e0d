"""Every kind of request against every server, all of them in turn within a round, because a machine drifts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from benchmarks.serving.alone import runs_alone
from benchmarks.serving.kinds import KINDS, Kind, numbers, probabilities_in, rows_of
from benchmarks.serving.load import measure
from benchmarks.serving.published import graph_of, manifest_of, read_results, update_results
from benchmarks.serving.servers import SERVERS, Choice, Peer, ask, running
from models.manifest import Manifest

ALONE = "onnx runtime alone"
_TRIAL_S = 2


class Comparison:
    """What is compared, and what was seen so far."""

    def __init__(
        self, port: int, seconds: int, kinds: Sequence[str], servers: Sequence[str], connections: Sequence[int] | None
    ) -> None:
        self._port, self._seconds = port, seconds
        chosen = [KINDS[name] for name in kinds]
        self._columns = [(kind, number) for kind in chosen for number in connections or kind.connections]
        self._servers = [SERVERS[name] for name in servers]
        self._right: dict[str, np.ndarray] = {}
        self._tuned: dict[tuple[str, int, str], Choice] = {}
        self.rows: dict[tuple[str, int, str], dict[str, Any]] = {}

    def tune(self, *, anew: bool) -> None:
        """Find for each peer and column the options that do best there, or take those of the last run."""
        if not anew:
            self._tuned = {tuple(key): choice for *key, choice in read_results().get("tuned", ())}
        for kind, connections in self._columns:
            for server in self._servers:
                choices = server.choices(kind, connections)
                key = (kind.name, connections, server.name)
                if not server.takes(kind) or self._tuned.get(key) in choices:
                    continue
                rates = [
                    self._measure(server, kind, connections, choice, _TRIAL_S)["rps"] if len(choices) > 1 else 0.0
                    for choice in choices
                ]
                self._tuned[key] = choices[int(np.argmax(rates))]
                if len(choices) > 1:
                    update_results("tuned", [[*key, choice] for key, choice in self._tuned.items()])
                    print(f"tuned  {kind.name}  c={connections}  {server.name}: {self._tuned[key]} of {rates}")

    def round(self) -> None:
        """Measure all once."""
        for kind, connections in self._columns:
            for server in self._servers:
                if server.takes(kind):
                    choice = self._tuned[kind.name, connections, server.name]
                    seen = self._measure(server, kind, connections, choice, self._seconds)
                    self._keep(kind, connections, server.name, choice, seen)
                    print(f"{kind.name}  c={connections}  {server.name}: {seen}")
            if kind.form == "binary" and kind.rows > 1:
                seen = runs_alone(graph_of(kind.model), numbers(kind.rows), self._seconds, processes=2)
                self._keep(kind, connections, ALONE, {}, seen | {"failed": 0})
                print(f"{kind.name}  {ALONE}: {seen}")

    def _keep(self, kind: Kind, connections: int, server: str, choice: Choice, seen: dict[str, Any]) -> None:
        row = {"kind": kind.name, "connections": connections, "server": server, "choice": dict(choice), "runs": []}
        self.rows.setdefault((kind.name, connections, server), row)["runs"].append(seen)

    def _measure(self, server: Peer, kind: Kind, connections: int, choice: Choice, seconds: int) -> dict[str, Any]:
        port = self._port
        command, variables = server.command(port), server.variables(kind, choice, port)
        with running(server.name, command, server.folder(), variables, lambda: self._is_right(server, kind)) as process:

            def load(one: Kind) -> dict[str, Any]:
                return measure(
                    process, port, [server.path(one)], server.body(one), connections=connections, seconds=seconds
                )

            if server.name != "rowcast" or kind.like is None:
                return load(kind)
            # a tenth is less than what two starts differ by, so the plain path goes before and behind, in the same one
            before, seen, behind = load(KINDS[kind.like]), load(kind), load(KINDS[kind.like])
            return seen | {"of_plain": 2 * seen["rps"] / (before["rps"] + behind["rps"])}

    def _is_right(self, server: Peer, kind: Kind) -> bool:
        """Whether it answers, and then the right probabilities."""
        status, raw = ask(self._port, server.path(kind), server.body(kind))
        if status in (0, 503):  # it is starting
            return False
        assert status == 200, f"{server.name} answers {status}: {raw[:300]!r}"
        right = self._right_answer(kind)
        np.testing.assert_allclose(probabilities_in(raw, kind, right.shape[1]), right, atol=1e-5)
        return True

    def _right_answer(self, kind: Kind) -> np.ndarray:
        if kind.name not in self._right:
            schema = Manifest.from_json(manifest_of(kind.model).read_bytes(), kind.model).input
            session = ort.InferenceSession(graph_of(kind.model), providers=["CPUExecutionProvider"])
            self._right[kind.name] = session.run(["probabilities"], {"features": schema.encode(rows_of(kind))})[0]
        return self._right[kind.name]
