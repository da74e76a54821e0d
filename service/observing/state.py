"""What is not counted but looked up when the page of metrics is read: what is live, what was refused, who is ready."""

import functools
import importlib.metadata
import platform
from collections import Counter as Counts
from collections.abc import Iterator, Sequence

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from models.repository import Version


class State(Collector):
    """What is so now, in the process that was asked."""

    def __init__(self, live: Sequence[Version], refused: Sequence[str], *, is_ready: bool, is_readable: bool) -> None:
        self._live, self._refused, self._is_ready, self._is_readable = live, refused, is_ready, is_readable

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily(
            "rowcast_model_info", "1 for every live version", labels=["model", "version", "task", "weights"]
        )
        for version in self._live:
            manifest = version.manifest
            info.add_metric([version.name, str(version.number), manifest.task, manifest.weights[:12]], 1)
        yield info
        failures = GaugeMetricFamily(
            "rowcast_model_load_failures", "Published versions that were refused", labels=["model"]
        )
        for model, count in sorted(Counts(place.rsplit("/", 1)[0] for place in self._refused).items()):
            failures.add_metric([model], count)
        yield failures
        build = GaugeMetricFamily("rowcast_build_info", "Always 1", labels=["python", "litserve"])
        build.add_metric([platform.python_version(), _litserves_version()], 1)
        yield build
        yield GaugeMetricFamily("rowcast_ready", "1 when the server is ready, else 0", value=float(self._is_ready))
        yield GaugeMetricFamily(
            "rowcast_repository_readable", "0 while the repository cannot be read", value=float(self._is_readable)
        )


@functools.cache
def _litserves_version() -> str:
    """Looked up once: it stands in a file among those of all packages."""
    return importlib.metadata.version("litserve")
