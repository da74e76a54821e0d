// Why a row has its answer: what each feature adds to it, on request, for it costs the server many predictions.

import { el, name } from "./dom.js";
import { json } from "./server.js";
import * as show from "./show.js";

const MOST_BARS = 12;

// Null where the version cannot be explained.
export function whyPanel(about, path, signal) {
  if (!about.explained) return null;
  const out = el("div", { "aria-live": "polite" });
  const button = el("button", { type: "button", click: ask }, "Explain this row");
  let row = null;
  async function ask() {
    if (row === null) return;
    const asked = row;
    button.disabled = true;
    try {
      const { explanations, method } = await json(`${path}:explain`, { body: { instances: [about.features.map((feature) => row.get(feature.name))] }, signal });
      if (asked === row) out.replaceChildren(...explained(about, explanations[0]).map((one) => chartOf(one, method)));
    } catch (error) {
      if (error.name !== "AbortError") out.replaceChildren(el("p", { class: "problem" }, error.message));
    } finally {
      button.disabled = false;
    }
  }
  const element = el("section", { class: "panel why" }, el("div", { class: "panel-head" }, el("h2", {}, "Why"), button), out);
  return { element, show(given) { row = given; out.replaceChildren(); } };
}

// [what is explained, its explanation], one for each target or one for the likeliest class.
function explained(about, explanation) {
  if (about.classes !== null) return [[`probability of ${explanation.class}`, explanation]];
  return about.targets.length === 1 ? [[about.targets[0], explanation]] : Object.entries(explanation);
}

function chartOf([what, { answer, base, values }], method) {
  const all = Object.entries(values).sort(([, a], [, b]) => Math.abs(b) - Math.abs(a));
  const bars = all.slice(0, MOST_BARS);
  const rest = all.slice(MOST_BARS).reduce((sum, [, value]) => sum + value, 0);
  if (all.length > MOST_BARS) bars.push([`${all.length - MOST_BARS} others`, rest]);
  const most = Math.max(...bars.map(([, value]) => Math.abs(value)), 1e-12);
  return el("table", {},
    el("caption", {}, name(what), ` is ${show.number(answer)}; the mean of some training rows is ${show.number(base)}.${method === "exact" ? "" : " Estimated from a sample."}`),
    el("tbody", {}, bars.map(([feature, value]) => el("tr", {},
      el("th", { scope: "row" }, name(feature)),
      el("td", { class: "adds", "aria-hidden": "true" }, bar(value / most)),
      el("td", { class: "number" }, `${value >= 0 ? "+" : "−"}${show.brief(Math.abs(value))}`)))));
}

function bar(share) {
  const filled = el("span", { class: share < 0 ? "less" : "more" });
  filled.style.inlineSize = `${50 * Math.abs(share)}%`;
  filled.style.marginInlineStart = share < 0 ? `${50 - 50 * Math.abs(share)}%` : "50%";
  return filled;
}
