"""What versions did since the server started, for those who ask for sums and not for metrics."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from service.observing.count_files import Whose
from service.observing.counts import Series
from service.observing.version_counts import OK, STAGES


@dataclass(slots=True)
class Totals:
    """What one version did since the server started.

    Attributes:
        answered, failed: requests.
        rows: rows that were answered.
        batches: batches that were computed.
        last_batch: when the last one was computed, in Unix time; 0 before the first.
        seconds: by stage, added up over requests.
    """

    answered: int = 0
    failed: int = 0
    rows: int = 0
    batches: int = 0
    last_batch: float = 0.0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    def add(self, name: str, labels: Mapping[str, str], value: float) -> None:
        """Take one sample of the metrics; one that does not matter here is passed over."""
        match name:
            case "rowcast_requests_total" if labels["code"] == OK:
                self.answered += int(value)
            case "rowcast_requests_total":
                self.failed += int(value)
            case "rowcast_rows_total":
                self.rows = int(value)
            case "rowcast_batch_rows_bucket":
                self.batches += int(value)
            case "rowcast_queue_duration_seconds_sum":
                self.seconds["queue"] = value
            case "rowcast_stage_seconds_total":
                self.seconds[labels["stage"]] = value
            case "rowcast_last_batch_time_seconds":
                self.last_batch = value
            case _:
                pass


def totals_of_versions(counts: Mapping[Series, float]) -> dict[Whose, Totals]:
    """The totals of every version in counts that were summed over all processes, by model and version."""
    totals: dict[Whose, Totals] = {}
    for series, value in counts.items():
        if series.whose[1]:
            totals.setdefault(series.whose, Totals()).add(series.name, dict(series.labels), value)
    return totals
