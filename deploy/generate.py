"""Writes what other files of this folder say once more: `python deploy/generate.py` (tests check that it is current).

grafana/rowcast.json             the dashboard, from this file
kubernetes/prometheusrule.yaml   prometheus/rules.yaml as the Prometheus operator reads it
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import dashboard, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders.common import StackingConfig, VizLegendOptions
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

FOLDER = Path(__file__).parent
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
OF = 'job=~"$job", model=~"$model", version=~"$version"'
JOB = 'job=~"$job"'
WINDOW = "$__rate_interval"
FAULTS = "internal|model_failed|bad_version|not_ready|overloaded|too_many_connections|deadline_passed"
PER_VERSION = "{{model}}/{{version}}"


def rate(name: str, labels: str = OF) -> str:
    """Per second, of a counter."""
    return f"rate({name}{{{labels}}}[{WINDOW}])"


def quantile(share: float, name: str, by: str = "") -> str:
    """A quantile of a histogram, of all versions together or by labels."""
    return f"histogram_quantile({share}, sum by (le{by and ', '}{by}) ({rate(name + '_bucket')}))"


def quantiles(name: str, *shares: float) -> list[tuple[str, str]]:
    """Several quantiles of a histogram, with their legends."""
    return [(quantile(share, name), f"{100 * share:g}%") for share in shares]


def mean(name: str) -> str:
    """The mean of what a histogram holds."""
    return f"sum({rate(name + '_sum')}) / sum({rate(name + '_count')})"


def queries(*pairs: tuple[str, str]) -> list[prometheus.Dataquery]:
    """Expressions with their legends."""
    return [
        prometheus.Dataquery().ref_id(chr(ord("A") + place)).expr(expression).legend_format(legend)
        for place, (expression, legend) in enumerate(pairs)
    ]


def graph(title: str, what: str, unit: str, *pairs: tuple[str, str]) -> timeseries.Panel:
    """Lines over time, a third of the page wide."""
    legend = VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
    panel = timeseries.Panel().title(title).description(what).datasource(SOURCE).targets(queries(*pairs))
    return panel.unit(unit).min(0).span(8).height(8).fill_opacity(10).legend(legend.show_legend(True))


def number(title: str, what: str, unit: str, expression: str, *colors: tuple[str, float]) -> stat.Panel:
    """One number; each color begins at its bound."""
    panel = stat.Panel().title(title).description(what).datasource(SOURCE).targets(queries((expression, "")))
    return panel.unit(unit).thresholds(bounds(*colors)).span(4).height(4)


def bounds(*colors: tuple[str, float]) -> dashboard.ThresholdsConfig:
    """Colors and where they begin; below the first of them it is green."""
    steps = [Threshold("green", None), *(Threshold(color, bound) for color, bound in colors)]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


# --------------------------------------------------------------------------------------------------- the rows


def overview() -> Iterator[stat.Panel]:
    requests, faults = rate("rowcast_requests_total"), rate("rowcast_requests_total", f'{OF}, code=~"{FAULTS}"')
    failed = f"(sum({faults}) or vector(0)) / sum({requests})"
    refused = f"sum(rowcast_model_load_failures{{{JOB}}}) or vector(0)"
    p99 = quantile(0.99, "rowcast_request_duration_seconds")
    ready = f"sum(rowcast_ready{{{JOB}}})"
    yield number("Ready", "Servers that can predict.", "none", ready, ("red", -1), ("green", 1))
    yield number("Requests", "Predictions asked for, per second.", "reqps", f"sum({requests})")
    yield number("Rows", "Rows answered, per second.", "rowsps", f"sum({rate('rowcast_rows_total')})")
    yield number("Failed by the server", "Of requests; the objective is 0.1%.", "percentunit", failed, ("red", 0.001))
    yield number("99th percentile", "Of whole requests; the objective is 0.1 s.", "s", p99, ("red", 0.1))
    yield number("Refused versions", "Published, but not trusted.", "none", refused, ("red", 1))


def traffic() -> Iterator[timeseries.Panel]:
    requests = f"sum by (model, version) ({rate('rowcast_requests_total')})"
    rows = f"sum by (model, version) ({rate('rowcast_rows_total')})"
    not_ok = rate("rowcast_requests_total", f'{OF}, code!="ok"')
    yield graph("Requests by version", "Per second.", "reqps", (requests, PER_VERSION))
    yield graph("Rows by version", "Answered per second.", "rowsps", (rows, PER_VERSION))
    yield graph(
        "Requests that ended in an error",
        "Per second, by code; docs/reference/errors.md explains each.",
        "reqps",
        (f"sum by (code) ({not_ok})", "{{code}}"),
    )


def latency() -> Iterator[timeseries.Panel | heatmap.Panel]:
    whole = "rowcast_request_duration_seconds"
    answered = rate("rowcast_requests_total", f'{OF}, code="ok"')
    stages = rate("rowcast_stage_seconds_total", f'{OF}, stage=~"encode|compute|write"')
    yield graph("Request", "From headers to the whole answer.", "s", *quantiles(whole, 0.5, 0.9, 0.99))
    yield graph(
        "What a request's time goes to",
        "Mean of those that were answered, in layers.",
        "s",
        (f"sum by (stage) ({stages}) / scalar(sum({answered}))", "{{stage}}"),
        (mean("rowcast_queue_duration_seconds"), "queue"),
    ).stacking(StackingConfig().mode(StackingMode.NORMAL))
    by_version = quantile(0.99, whole, "model, version")
    yield graph("99th percentile by version", "Of whole requests.", "s", (by_version, PER_VERSION))
    buckets = queries((f"sum by (le) (increase({whole}_bucket{{{OF}}}[{WINDOW}]))", "{{le}}"))
    panel = heatmap.Panel().title("How long requests take").description("In seconds.").datasource(SOURCE)
    yield panel.targets([query.format(PromQueryFormat.HEATMAP) for query in buckets]).span(24).height(8)


def saturation() -> Iterator[timeseries.Panel]:
    batch, queue, compute = ("rowcast_batch_rows", "rowcast_queue_duration_seconds", "rowcast_compute_duration_seconds")
    rows = ((mean(batch), "mean"), (quantile(0.99, batch), "99%"))
    computing = f"sum by (instance) ({rate(compute + '_sum', JOB)})"
    fullest = f"max(rowcast_rows_in_flight{{{JOB}}} / rowcast_waiting_rows_limit{{{JOB}}})"
    in_flight = f"sum by (instance) (rowcast_rows_in_flight{{{JOB}}})"
    shed = rate("rowcast_requests_total", f'{JOB}, code=~"overloaded|too_many_connections|not_ready"')
    yield graph("Rows per batch", "As many as arrive while the last batch is out.", "none", *rows)
    yield graph("Queue", "How long an encoded request waits for its batch.", "s", *quantiles(queue, 0.5, 0.99))
    yield graph("Compute", "How long the session computes a batch.", "s", *quantiles(compute, 0.5, 0.99))
    yield graph("Computing", "Batches computed at a time.", "none", (computing, "{{instance}}"))
    yield graph("Fullest queue", "Share of the rows that may wait.", "percentunit", (fullest, "fullest"))
    yield graph("Rows in flight", "Encoded and not yet answered.", "none", (in_flight, "{{instance}}"))
    answered_503 = f"sum by (code) ({shed}) or vector(0)"
    yield graph("Shed", "Requests answered 503, per second.", "reqps", (answered_503, "{{code}}"))


def versions() -> Iterator[table.Panel | timeseries.Panel]:
    live = queries((f"count by (model, version, task, weights) (rowcast_model_info{{{OF}}})", ""))
    idle = f"time() - max by (model, version) (rowcast_last_batch_time_seconds{{{OF}}})"
    refused = f"max by (model) (rowcast_model_load_failures{{{JOB}}})"
    panel = table.Panel().title("Live versions").description("And how many servers have them.").datasource(SOURCE)
    yield panel.targets([query.instant().format(PromQueryFormat.TABLE) for query in live]).span(8).height(8)
    yield graph("Seconds since the last batch", "Of each version.", "s", (idle, PER_VERSION))
    yield graph("Refused versions", "GET /v1/models/{model} says why.", "none", (refused, "{{model}}"))


def drift() -> Iterator[timeseries.Panel]:
    what = "Population stability index: below 0.1 nothing moved, above 0.25 much did."
    limits = bounds(("orange", 0.1), ("red", 0.25))
    ten = f"{what} The 10 largest."
    features = f"topk(10, max by (model, version, feature) (rowcast_feature_psi{{{OF}}}))"
    predictions = f"max by (model, version, target) (rowcast_prediction_psi{{{OF}}})"
    rows = f"sum by (model, version) (rowcast_drift_rows{{{OF}}})"
    yield graph("Features", ten, "none", (features, PER_VERSION + " {{feature}}")).thresholds(limits)
    yield graph("Predictions", what, "none", (predictions, PER_VERSION + " {{target}}")).thresholds(limits)
    yield graph("Rows behind it", "Of the latest; below 300 nothing is said.", "none", (rows, PER_VERSION))


def processes() -> Iterator[timeseries.Panel]:
    cores = f"sum by (instance) ({rate('rowcast_cpu_seconds_total', JOB)})"
    memory = f"sum by (instance) (rowcast_memory_bytes{{{JOB}}})"
    yield graph("Processor", "Cores in use by all processes of a server.", "none", (cores, "{{instance}}"))
    yield graph("Memory", "Of all processes, shared pages once.", "bytes", (memory, "{{instance}}"))
    yield graph(
        "Restarts",
        "Of API processes and inference workers, in the last 15 minutes.",
        "none",
        (f"changes(rowcast_worker_start_time_seconds{{{JOB}}}[15m])", "{{instance}} {{worker}}"),
        (f"changes(rowcast_process_start_time_seconds{{{JOB}}}[15m])", "{{instance}} {{pid}}"),
    )


ROWS = {
    "Traffic": traffic,
    "Latency": latency,
    "Batches and saturation": saturation,
    "Versions": versions,
    "Drift": drift,
    "Processes": processes,
}


def rowcast() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    board = dashboard.Dashboard("Rowcast").uid("rowcast").tags(["rowcast"]).refresh("10s").time("now-1h", "now")
    board.tooltip(DashboardCursorSync.CROSSHAIR)
    board.with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    for name, query in (
        ("job", "label_values(rowcast_ready, job)"),
        ("model", f"label_values(rowcast_model_info{{{JOB}}}, model)"),
        ("version", f'label_values(rowcast_model_info{{{JOB}, model=~"$model"}}, version)'),
    ):
        variable = dashboard.QueryVariable(name).label(name.title()).query(query).datasource(SOURCE)
        variable.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).multi(True).include_all(True).all_value(".*")
        board.with_variable(variable)
    for panel in overview():
        board.with_panel(panel)
    for title, panels in ROWS.items():
        board.with_row(dashboard.Row(title))
        for panel in panels():
            board.with_panel(panel)
    built: dict[str, Any] = json.loads(JSONEncoder(sort_keys=True).encode(board.build()))
    for place, panel in enumerate(built["panels"], start=1):
        panel["id"] = place  # Grafana would number them anew at every import
    return built


def prometheus_rule() -> str:
    """The rules as a resource of the Prometheus operator."""
    rules = (FOLDER / "prometheus/rules.yaml").read_text()
    groups = rules[rules.index("groups:") :]
    head = """# Generated by deploy/generate.py from deploy/prometheus/rules.yaml.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: rowcast
  labels:
    app.kubernetes.io/name: rowcast
spec:
"""
    return head + "".join(f"  {line}" if line.strip() else line for line in groups.splitlines(keepends=True))


def files() -> dict[Path, str]:
    """What stands in each generated file."""
    return {
        FOLDER / "grafana/rowcast.json": json.dumps(rowcast(), indent=1) + "\n",
        FOLDER / "kubernetes/prometheusrule.yaml": prometheus_rule(),
    }


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text)
