// An answer to one row: a class with the probabilities of all, or the predicted numbers.

import { el, name } from "./dom.js";
import * as show from "./show.js";

const MOST_CLASSES = 12;

export function resultOf(about, answer) {
  return about.classes === null ? numbers(about, answer) : classes(answer);
}

function numbers({ targets }, answer) {
  const values = [answer.predictions[0]].flat();
  return el("dl", { class: values.length === 1 ? "numbers one" : "numbers" },
    targets.map((target, place) => [
      el("dt", {}, name(target)),
      el("dd", {}, el("output", {}, show.number(values[place])), rangeOf(answer, place)),
    ]));
}

// The interval that goes with a number, where it was asked for: [lowest, highest], or one such for each target.
function rangeOf(answer, place) {
  const ends = answer.intervals?.[0];
  if (!ends) return null;
  const [low, high] = Array.isArray(ends[0]) ? ends[place] : ends;
  return el("span", { class: "quiet range" }, `${show.number(low)} to ${show.number(high)}`);
}

function classes(answer) {
  const likely = answer.probabilities[0].map((probability, place) => ({ probability, label: answer.classes[place] }))
    .sort((a, b) => b.probability - a.probability);
  const rest = likely.slice(MOST_CLASSES);
  return el("div", { class: "classes" },
    el("p", { class: "likeliest" }, el("output", {}, name(answer.predictions[0]))),
    el("table", {}, el("caption", { class: "hidden" }, "Probability of each class"),
      el("tbody", {}, likely.slice(0, MOST_CLASSES).map(({ probability, label }) => el("tr", {},
        el("th", { scope: "row" }, name(label)),
        el("td", { class: "bar", "aria-hidden": "true" }, bar(probability)),
        el("td", { class: "number" }, show.share(probability)))))),
    answer.prediction_sets && el("p", { class: "quiet" }, answer.prediction_sets[0].length ? [`Among these, sure to ${Number((100 * answer.interval).toFixed(2))} %: `, answer.prediction_sets[0].map((label, place) => [place ? ", " : "", name(label)])] : "No class is likely enough: the row is unlike what training saw."),
    rest.length > 0 && el("p", { class: "quiet" }, `${show.count(rest.length, "other class", "other classes")}: ${show.share(rest.reduce((sum, one) => sum + one.probability, 0))} together`));
}

function bar(share) {
  const filled = el("span");
  filled.style.inlineSize = `${100 * share}%`;
  return filled;
}
