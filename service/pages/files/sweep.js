// The model along one feature or two, around the row of the form: the prediction curve or surface, as the server gives it.

import { legend, lineChart, shade, shadeScale, surface } from "./charts.js";
import { el, fresh, name } from "./dom.js";
import * as show from "./show.js";

const POINTS = 101; // along one feature
const SIDE = 51; // along each of two
const MOST_NAMES = 40; // categories that are asked for
const MOST_LINES = 7; // classes or targets that get a line

// `predict(rows, signal)` asks the model; `set(feature, value)` puts a value into the form.
export function sweepOf(about, predict, set) {
  const { features, classes, targets } = about;
  const answers = classes ?? targets;
  const picture = el("div", { class: "picture" });
  const first = choice("Vary", features.map((feature) => feature.name), update);
  const second = choice("and", ["nothing else", ...features.map((feature) => feature.name)], update);
  const of = choice(classes ? "Show" : "Target", classes ? ["likeliest class", ...answers] : answers, update);
  second.element.hidden = features.length === 1;
  first.select.value = String(Math.max(0, features.findIndex(({ kind }) => kind === "number")));
  // a surface has 2,601 rows, each with a probability of every class: of 1,000 classes 35 MB at each key
  const isPlane = features.length === 2 && features.every(({ kind }) => kind === "number") && answers.length <= MOST_NAMES;
  second.select.value = isPlane ? "2" : "0";
  const element = el("section", { class: "panel sweep" },
    el("div", { class: "panel-head" }, el("h2", {}, "Around this row"), el("div", { class: "choices" }, first.element, second.element, of.element)), picture);
  let row = null, running = null;

  async function update() {
    const x = features[Number(first.select.value)];
    const y = second.select.value === "0" ? null : features[Number(second.select.value) - 1];
    of.element.hidden = classes ? !y : answers.length === 1;
    if (row === null) return;
    running?.abort();
    running = new AbortController();
    const { signal } = running;
    try {
      const made = y && y !== x ? await plane(x, y, signal) : await line(x, signal);
      if (!signal.aborted) picture.replaceChildren(made);
    } catch (error) {
      if (error.name !== "AbortError") picture.replaceChildren(el("p", { class: "problem" }, error.message));
    }
  }

  async function line(x, signal) {
    const axis = axisOf(x, row.get(x.name), POINTS);
    if (axis.values.length === 0) return nothing(x);
    const answer = await predict(axis.values.map((value) => varied(row, [[x, value]])), signal);
    return lineChart({
      axis, pick: (value) => set(x.name, sent(x, value)), marker: placeOn(axis, x, row.get(x.name)),
      ...(classes ? probabilityLines(answer) : targetLines(answer)),
    });
  }

  function probabilityLines(answer) {
    const most = classes.map((label, place) => ({ label: String(label), values: answer.probabilities.map((shares) => shares[place]) }))
      .map((one) => ({ ...one, most: Math.max(...one.values) }));
    const shown = classes.length === 2 ? [most[1]] : [...most].sort((a, b) => b.most - a.most).slice(0, MOST_LINES);
    const inOrder = most.filter((one) => shown.includes(one));
    return { series: inOrder, label: classes.length === 2 ? `probability of ${classes[1]}` : "probability", range: [0, 1] };
  }

  function targetLines(answer) {
    const place = Number(of.select.value);
    const ends = (answer.intervals ?? []).map((both) => (Array.isArray(both[0]) ? both[place] : both));
    return { series: [{ label: targets[place], values: answer.predictions.map((value) => [value].flat()[place]) }], label: targets[place], range: null, band: ends };
  }

  async function plane(x, y, signal) {
    const across = axisOf(x, row.get(x.name), SIDE), up = axisOf(y, row.get(y.name), SIDE);
    if (across.values.length === 0) return nothing(x);
    if (up.values.length === 0) return nothing(y);
    const rows = up.values.flatMap((high) => across.values.map((wide) => varied(row, [[x, wide], [y, high]])));
    const answer = await predict(rows, signal);
    const at = [placeOn(across, x, row.get(x.name)), placeOn(up, y, row.get(y.name))];
    const { cells, scale, label } = classes ? classCells(answer) : numberCells(answer);
    const width = across.values.length;
    return surface({
      across, up, label, scale, marker: at.includes(null) ? null : at,
      cells: up.values.map((_, line) => cells.slice(line * width, (line + 1) * width)),
      pick: (wide, high) => { set(x.name, sent(x, wide)); set(y.name, sent(y, high)); },
    });
  }

  function classCells(answer) {
    const wanted = Number(of.select.value) - 1;
    if (wanted >= 0) return shaded(answer.probabilities.map((shares) => shares[wanted]), 0, 1, `probability of ${classes[wanted]}`, show.share);
    const places = answer.probabilities.map((shares) => shares.indexOf(Math.max(...shares)));
    const cells = places.map((place, at) => {
      const certainty = answer.probabilities[at][place];
      const strength = 0.25 + 0.65 * Math.max(0, (certainty * classes.length - 1) / (classes.length - 1));
      return { colour: `s${place % MOST_LINES}`, strength, text: `${classes[place]} ${show.share(certainty)}` };
    });
    const seen = [...new Set(places)].sort((a, b) => a - b).slice(0, 2 * MOST_LINES);
    return { cells, scale: legend(seen.map((place) => [`s${place % MOST_LINES}`, classes[place]])), label: "likeliest class" };
  }

  function numberCells(answer) {
    const place = Number(of.select.value);
    const values = answer.predictions.map((value) => [value].flat()[place]);
    return shaded(values, Math.min(...values), Math.max(...values), targets[place], show.number);
  }

  return { element, show: (given) => { row = given; return update(); } };
}

function shaded(values, low, high, label, text) {
  const cells = values.map((value) => ({ fill: shade((value - low) / (high - low || 1)), strength: 1, text: text(value) }));
  return { cells, scale: shadeScale(low, high, label), label };
}

function nothing(feature) {
  return el("p", { class: "quiet" }, "Training saw no value of ", name(feature.name), ".");
}

function choice(label, options, changed) {
  const id = fresh("choice");
  const select = el("select", { id, change: changed }, options.map((option, place) => el("option", { value: String(place) }, String(option))));
  return { select, element: el("span", { class: "choice" }, el("label", { for: id }, label), select) };
}

// The values to ask for: over the range of the training rows, and as far as the row's own value.
function axisOf(feature, current, count) {
  if (feature.kind === "boolean") return names(feature, [false, true]);
  if (feature.kind === "category") {
    const shown = feature.categories.slice(0, MOST_NAMES);
    return names(feature, current === null || shown.includes(current) ? shown : [...shown, current]);
  }
  const isTime = feature.kind === "datetime";
  const range = isTime ? feature.range_days : feature.range;
  if (!range) return { values: [] };
  const own = current === null ? range[0] : isTime ? Date.parse(`${current}Z`) / 86400000 : current;
  const low = Math.min(range[0], own), high = Math.max(range[1], own);
  const values = high > low ? Array.from({ length: count }, (_, place) => low + ((high - low) * place) / (count - 1)) : [low];
  const text = isTime ? (days) => show.day(days).slice(0, 10) : show.number;
  return { label: feature.unit ? `${feature.name} (${feature.unit})` : feature.name, values, isOrdered: true, text };
}

function names(feature, values) {
  return { label: feature.name, values, isOrdered: false, text: String };
}

function placeOn(axis, feature, current) {
  if (current === null) return null;
  if (!axis.isOrdered) return axis.values.includes(current) ? axis.values.indexOf(current) : null;
  const value = feature.kind === "datetime" ? Date.parse(`${current}Z`) / 86400000 : current;
  const first = axis.values[0], last = axis.values.at(-1);
  return last > first ? ((value - first) / (last - first)) * (axis.values.length - 1) : 0;
}

function varied(row, changes) {
  const other = new Map(row);
  for (const [feature, value] of changes) other.set(feature.name, sent(feature, value));
  return other;
}

// A value of an axis as the form and the server take it.
function sent(feature, value) {
  if (feature.kind === "datetime") return show.day(value);
  return feature.kind === "number" ? show.within(value, feature.range, 7) : value;
}
