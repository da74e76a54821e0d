"""The job of a request that was read with the others of its turn, see service/http/same_turn.py."""

from typing import TYPE_CHECKING

from models.errors import RowcastError
from models.repository import Version
from models.schema import Matrix
from service.batching.batches import Batch, Job

if TYPE_CHECKING:
    from service.http.exchange import Exchange
    from service.http.same_turn import Pending, TurnBatch


class TurnJob(Job):
    """A request that was read with the others of its turn, and is computed by a worker.

    What answers it with others is `together`, a `TurnBatch`. Whatever else becomes of it is an exchange's part, which
    then stands in for it.

    Attributes:
        pending: where it waits.
        started: when its turn began, by `time.perf_counter`.
        encode_s: its part of the time that it took to read its turn.
        oip_id: the id that comes back with its answer; empty where there is none.
    """

    stand_in: "Exchange | None" = None
    oip_id = ""
    encode_s = 0.0

    def __init__(self, together: "TurnBatch", pending: "Pending", matrix: Matrix, version: Version) -> None:
        """A request whose rows are the matrix [N, F]."""
        self.together, self.pending, self.started = together, pending, pending.started
        self.matrix, self.rows, self.version = matrix, len(matrix), version

    def answered(self, batch: Batch, start: int) -> None:
        """Have its own part of the batch's answers written."""
        self._exchange().answered(batch, start)

    def refused(self, problem: RowcastError) -> None:
        """Have the problem written."""
        self._exchange().refused(problem)

    def _exchange(self) -> "Exchange":
        return self.stand_in or self.pending.lane.take_out(self)
