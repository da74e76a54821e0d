// What the server does now, from the metrics that Prometheus reads: one look every two seconds while the tab is seen.

import { el, svg } from "./dom.js";
import { read } from "./server.js";
import * as show from "./show.js";

const EVERY_MS = 2000;
const KEPT = 60; // looks, two minutes
const WINDOW = 15; // looks that quantiles and means are taken over, half a minute

// A strip of figures of all models, or of one: `of` is { model, version }.
export function watchTraffic(signal, of) {
  const tiles = {
    requests: tile("Requests", "per second"),
    median: tile("Latency", "median"),
    slow: tile("Latency", "99th percentile"),
    batch: tile("Batch", "mean rows"),
    queue: tile("In flight", "rows, server"),
    errors: tile("Errors", "per second"),
  };
  const figures = Object.values(tiles).map(({ element: one }) => one);
  const element = el("section", { class: "traffic", "aria-label": "Traffic, last half minute" }, figures);
  const looks = [];
  let cells = null;

  async function look() {
    const text = await read("metrics", { signal });
    const counts = countsIn(text, of);
    if (counts.requests + counts.errors < looks.at(-1)?.requests + looks.at(-1)?.errors) looks.length = 0; // a server that began anew
    if (looks.length === 0) element.replaceChildren(...figures);
    looks.push({ at: performance.now() / 1000, ...counts });
    if (looks.length > KEPT) looks.shift();
    draw(tiles, looks);
    relabel();
  }
  function relabel() {
    if (!cells || looks.length < 2) return;
    const [before, now] = looks.slice(-2);
    for (const cell of cells.querySelectorAll("[data-rate-of]")) {
      const model = cell.dataset.rateOf;
      cell.textContent = rate(((now.byModel.get(model) ?? 0) - (before.byModel.get(model) ?? 0)) / (now.at - before.at));
    }
  }
  let timer;
  function again() {
    timer = setTimeout(async () => {
      if (!document.hidden) await look().catch(() => {}); // the next look may find it again
      if (!signal.aborted) again();
    }, EVERY_MS);
  }
  look().then(again, (error) => {
    if (error.name === "AbortError") return;
    element.replaceChildren(el("p", { class: "quiet" }, `No traffic is shown: ${error.message}`));
    if (error.status !== 403) again(); // a key that may not: the server would count an error every two seconds
  });
  signal.addEventListener("abort", () => clearTimeout(timer));
  return { element, relabel: (table) => { cells = table; relabel(); } };
}

function tile(what, unit) {
  const figure = el("span", { class: "figure" }, "–");
  const line = svg("svg", { class: "spark", viewBox: "0 0 60 20", preserveAspectRatio: "none", "aria-hidden": "true" });
  const element = el("div", { class: "tile" }, el("span", { class: "what" }, what, el("small", {}, unit)), figure, line);
  return { element, figure, line };
}

function draw(tiles, looks) {
  const now = looks.at(-1);
  const before = looks[Math.max(0, looks.length - 1 - WINDOW)];
  const each = (count) => looks.slice(1).map((look, place) => (look[count] - looks[place][count]) / (look.at - looks[place].at));
  const requests = each("requests");
  const errors = each("errors");
  put(tiles.requests, requests.length ? rate(requests.at(-1)) : "–", requests);
  put(tiles.errors, errors.length ? rate(errors.at(-1)) : "–", errors);
  tiles.errors.element.classList.toggle("bad", (errors.at(-1) ?? 0) > 0);
  for (const [which, share] of [["median", 0.5], ["slow", 0.99]]) {
    const value = quantile(share, before.buckets, now.buckets);
    const line = looks.slice(1).map((look, place) => quantile(share, looks[place].buckets, look.buckets));
    put(tiles[which], value === null ? "–" : show.seconds(value), line);
  }
  const batches = now.batches - before.batches;
  put(tiles.batch, batches > 0 ? show.number(Number(((now.batchRows - before.batchRows) / batches).toPrecision(3))) : "–",
    looks.slice(1).map((look, place) => (look.batches > looks[place].batches ? (look.batchRows - looks[place].batchRows) / (look.batches - looks[place].batches) : null)));
  put(tiles.queue, show.number(now.inFlight), looks.map((look) => look.inFlight));
}

function put({ figure, line }, text, values) {
  if (figure.textContent !== text) figure.textContent = text;
  const most = Math.max(...values.filter((value) => value !== null), 1e-9);
  const points = values.map((value, place) => [60 - KEPT + (KEPT - values.length) + place + 1, value === null ? null : 18.5 - (17 * value) / most]);
  const path = points.filter(([, y]) => y !== null).map(([x, y], place) => `${place ? "L" : "M"}${x} ${y.toFixed(1)}`).join("");
  line.replaceChildren(svg("path", { d: path, "vector-effect": "non-scaling-stroke" }));
}

function rate(value) {
  return value >= 100 ? Math.round(value).toLocaleString("en") : String(Number(value.toFixed(1)));
}

// What one look at the metrics counts.
function countsIn(text, of) {
  const counts = { requests: 0, errors: 0, batches: 0, batchRows: 0, inFlight: 0, buckets: new Map(), byModel: new Map() };
  for (const { metric, labels, value } of samples(text)) {
    if (metric === "rowcast_rows_in_flight") counts.inFlight = value;
    if (metric === "rowcast_requests_total" && labels.code === "ok") {
      counts.byModel.set(labels.model, (counts.byModel.get(labels.model) ?? 0) + value);
    }
    if (of && (labels.model !== of.model || labels.version !== of.version)) continue;
    if (metric === "rowcast_requests_total") counts[labels.code === "ok" ? "requests" : "errors"] += value;
    else if (metric === "rowcast_batch_rows_count") counts.batches += value;
    else if (metric === "rowcast_batch_rows_sum") counts.batchRows += value;
    else if (metric === "rowcast_request_duration_seconds_bucket") {
      const bound = labels.le === "+Inf" ? Infinity : Number(labels.le);
      counts.buckets.set(bound, (counts.buckets.get(bound) ?? 0) + value);
    }
  }
  return counts;
}

// The samples of a page in Prometheus' text format.
function* samples(text) {
  for (const line of text.split("\n")) {
    if (!line.startsWith("rowcast_")) continue;
    const parts = /^(\w+)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!parts) continue;
    const labels = {};
    for (const [, label, value] of (parts[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) labels[label] = value;
    yield { metric: parts[1], labels, value: Number(parts[3]) };
  }
}

// The quantile of what came between two looks, within its bucket as Prometheus' histogram_quantile draws it; null of
// nothing.
function quantile(share, before, now) {
  const bounds = [...now.keys()].sort((a, b) => a - b);
  const upTo = bounds.map((bound) => now.get(bound) - (before.get(bound) ?? 0));
  const all = upTo.at(-1) ?? 0;
  if (all <= 0) return null;
  const place = upTo.findIndex((count) => count >= share * all);
  if (bounds[place] === Infinity) return bounds[place - 1];
  const low = place ? bounds[place - 1] : 0;
  const below = place ? upTo[place - 1] : 0;
  return low + ((bounds[place] - low) * (share * all - below)) / (upTo[place] - below);
}
