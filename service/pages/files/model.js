// A model's page: one row through the form, a whole table, and the card. It predicts as one types.

import { el, fresh, later, name } from "./dom.js";
import { formOf } from "./form.js";
import { say } from "./models.js";
import { resultOf } from "./result.js";
import { address, json, read } from "./server.js";
import { snippetPanel } from "./snippets.js";
import { sweepOf } from "./sweep.js";
import { tablePanel } from "./table.js";
import { watchTraffic } from "./traffic.js";
import { whyPanel } from "./why.js";
import * as show from "./show.js";

const WAIT_MS = 90; // after a key, before it predicts

export async function showModel(view, signal, model, kind, which, tab) {
  const named = ["versions", "labels"].includes(kind) && which ? `/${kind}/${encodeURIComponent(which)}` : "";
  const path = `v1/models/${encodeURIComponent(model)}${named}`;
  const [about, all] = await Promise.all([json(path, { signal }), json("page/overview", { signal })]);
  document.title = `${about.name} – Rowcast`;
  say(all.not_ready);
  const traffic = watchTraffic(signal, { model: about.name, version: about.version });
  const predict = (rows, mine, level) => json(`${path}:predict`, {
    body: {
      instances: rows.map((row) => about.features.map((feature) => row.get(feature.name))),
      ...(level ? { parameters: { interval: level } } : {}),
    },
    signal: mine,
  });
  view.replaceChildren(
    headOf(about, all, named),
    traffic.element,
    tabsOf(`./#/models/${model}${named}`, tab, [
      ["predict", "Predict", () => predictPage(about, path, predict, signal)],
      ["table", "Table", () => tablePanel(about, path, signal)],
      ["features", "Features", () => featurePanel(about)],
      ["card", "Card", () => cardPanel(path, signal)],
    ]));
}

function headOf(about, all, named) {
  const id = fresh("version");
  const here = `./#/models/${about.name}`;
  const options = [
    ["", "default"],
    ...Object.entries(about.labels).map(([label, number]) => [`/labels/${encodeURIComponent(label)}`, `${label} (${number})`]),
    ...[...about.versions].reverse().map((number) => [`/versions/${number}`, number]),
  ];
  const select = el("select", { id, change: () => { location.hash = `${here.slice(3)}${select.value}`; } },
    options.map(([value, text]) => el("option", { value, selected: value === named }, text)));
  const reasons = Object.values(about.refused);
  const predicts = about.targets.map((target, place) => [place ? ", " : "", el("b", {}, name(target))]);
  const among = about.classes && about.classes.length <= 8 ? [" (", about.classes.map((label, place) => [place ? ", " : "", name(label)]), ")"] : about.classes ? ` (${about.classes.length} classes)` : "";
  return el("div", { class: "model-head" },
    el("p", { class: "crumbs" }, el("a", { href: "./#/" }, "Models")),
    el("div", { class: "head" }, el("h1", {}, name(about.name), el("span", { class: "chip on" }, `version ${about.version}`)),
      el("span", { class: "choice" }, el("label", { for: id }, "Version"), select)),
    el("p", { class: "about" }, "Predicts ", predicts, among, ` from ${show.count(about.features.length, "feature")}`, scoresOf(about)),
    reasons.map((reason) => el("p", { class: "problem" }, name(reason))),
    about.warnings?.length > 0 && el("details", { class: "warnings" }, el("summary", {}, show.count(about.warnings.length, "thing"), " to look at before relying on it"),
      el("ul", {}, about.warnings.map((warning) => el("li", {}, name(warning))))));
}

function scoresOf({ scores }) {
  const part = ["test", "validation", "train"].find((one) => scores[one]);
  if (!part) return ".";
  const [[metric, value] = []] = Object.entries(scores[part].metrics);
  if (metric === undefined || value === null) return ".";
  const beside = Object.entries(scores[part].baselines).map(([who, theirs]) => (typeof theirs[metric] === "number" ? `${who} ${theirs[metric].toFixed(3)}` : null)).filter(Boolean);
  return [`; ${show.metric(metric)} `, el("b", {}, value.toFixed(4)), ` on ${show.count(scores[part].rows, `${part} row`)}`, beside.length ? ` (${beside.join(", ")}).` : "."];
}

// Tabs as WAI-ARIA's authoring practices describe them; a page is made when it is first shown.
function tabsOf(here, wanted, pages) {
  const group = fresh("tab");
  const panels = pages.map(([tab]) => el("div", { role: "tabpanel", id: `${group}-${tab}`, "aria-labelledby": `${group}-${tab}-tab`, hidden: true }));
  const buttons = pages.map(([tab, label], place) => el("button", {
    type: "button", role: "tab", id: `${group}-${tab}-tab`, "aria-controls": `${group}-${tab}`,
    click: () => open(place), keydown: (event) => move(event, place),
  }, label));
  function open(place) {
    buttons.forEach((button, other) => { button.setAttribute("aria-selected", String(other === place)); button.tabIndex = other === place ? 0 : -1; });
    panels.forEach((panel, other) => { panel.hidden = other !== place; });
    if (!panels[place].hasChildNodes()) panels[place].append(pages[place][2]());
    history.replaceState(null, "", place ? `${here}?tab=${pages[place][0]}` : here);
  }
  function move(event, place) {
    const to = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: pages.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = (to + pages.length) % pages.length;
    open(next);
    buttons[next].focus();
  }
  open(Math.max(0, pages.findIndex(([tab]) => tab === wanted)));
  return [el("div", { class: "tabs", role: "tablist", "aria-label": "What to see of the model" }, buttons), panels]
    .reduce((whole, part) => { whole.append(...[part].flat()); return whole; }, el("div"));
}

// ------------------------------------------------------------------------------------------------ one row

function predictPage(about, path, predict, signal) {
  const result = el("div", { class: "answer", "aria-live": "polite" }, el("p", { class: "quiet" }, "…"));
  const took = el("span", { class: "quiet" });
  const form = formOf(about.features, about.example, changed);
  const sure = levelOf(about, () => ask());
  const sweep = sweepOf(about, (rows, mine) => predict(rows, mine, about.classes ? null : sure.level()), form.set);
  const snippets = snippetPanel(`${path}:predict`);
  const why = whyPanel(about, path, signal);
  const soon = later(() => ask(), WAIT_MS);
  let running = null;

  function changed() {
    running?.abort(); // what comes now would be of another row
    soon();
  }
  async function ask() {
    running?.abort(); // also where another level is asked for while an answer is on its way
    const row = form.row();
    if (row === null) {
      result.classList.add("old");
      took.textContent = "";
      return;
    }
    snippets.show(row);
    why?.show(row);
    running = new AbortController();
    const mine = AbortSignal.any([signal, running.signal]);
    const started = performance.now();
    try {
      const answer = await predict([row], mine, sure.level());
      took.textContent = `answered in ${show.seconds((performance.now() - started) / 1000)}`;
      result.replaceChildren(resultOf(about, answer));
      result.classList.remove("old");
      await sweep.show(row);
    } catch (error) {
      if (error.name === "AbortError") return;
      took.textContent = "";
      const isSaid = error.feature !== undefined && form.say(error.feature, error.expected ?? error.message);
      result.replaceChildren(el("p", { class: "problem", role: "alert" }, isSaid ? "One of the values is refused; its field says why." : error.message));
    }
  }
  ask();
  return el("div", { class: "predict" },
    el("section", { class: "panel row-panel" }, el("h2", {}, "One row"), form.element),
    el("div", { class: "results" },
      el("section", { class: "panel answer-panel" }, el("div", { class: "panel-head" }, el("h2", {}, "Prediction"), took, sure.element), result),
      why?.element, sweep.element, snippets.element));
}

// How sure the answer shall be, of the levels that the version was calibrated for.
function levelOf(about, changed) {
  const levels = about.intervals?.levels ?? [];
  if (levels.length === 0) return { element: null, level: () => null };
  const id = fresh("level");
  const select = el("select", { id, change: changed }, levels.map((level) => el("option", { value: level, selected: level === 0.9 }, `${Number((100 * level).toFixed(2))} %`)));
  return { element: el("span", { class: "choice" }, el("label", { for: id }, about.classes ? "Sure to" : "Interval of"), select), level: () => Number(select.value) };
}

// ------------------------------------------------------------------------------------------------ the features

function featurePanel(about) {
  const importances = new Map((about.importances ?? []).map((one) => [one.feature, one]));
  const most = Math.max(...[...importances.values()].map(({ value }) => value), 1e-12);
  const heads = ["Feature", "Kind", "Values in training", "Missing", ...(importances.size ? ["Importance"] : [])];
  return el("section", { class: "panel" }, el("h2", {}, show.count(about.features.length, "feature")),
    el("div", { class: "wide" }, el("table", { class: "features" },
      el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col", class: head === "Missing" ? "number" : "" }, head)))),
      el("tbody", {}, about.features.map((feature) => el("tr", {}, el("th", { scope: "row" }, name(feature.name)), el("td", {}, feature.kind), el("td", {}, valuesOf(feature)), el("td", { class: "number" }, show.share(feature.missing_share)),
        importances.size > 0 && el("td", { class: "importance" }, importanceOf(importances.get(feature.name), most))))))),
    importances.size > 0 && el("p", { class: "quiet" }, `Importance: ${about.classes ? "what is added to the log loss" : "what is lost of R²"} when the feature's values are shuffled among the rows.`));
}

function importanceOf(one, most) {
  if (!one) return "–";
  const filled = el("span");
  filled.style.inlineSize = `${Math.max(0, 100 * one.value) / most}%`;
  return [el("span", { class: "bar", "aria-hidden": "true" }, filled), el("span", { title: `${show.brief(one.low)} to ${show.brief(one.high)}` }, show.brief(one.value))];
}

function valuesOf(feature) {
  const [low, high] = feature.range ?? feature.range_days ?? [];
  if (feature.kind === "category") {
    const more = feature.categories.length - 12;
    return [feature.categories.slice(0, 12).map((category, place) => [place ? ", " : "", name(category)]), more > 0 && ` and ${more} more`];
  }
  if (feature.kind === "boolean") return feature.true_share === null ? "" : `true in ${show.share(feature.true_share)}`;
  if (low === undefined) return "always missing";
  if (feature.kind === "datetime") return `${show.day(low).slice(0, 10)} to ${show.day(high).slice(0, 10)}`;
  return [`${show.number(low)} to ${show.number(high)}`, feature.unit && [" ", name(feature.unit)]];
}

// ------------------------------------------------------------------------------------------------ the card

// The report is HTML that a trainer wrote: it is shown in a frame that has no origin and may do nothing.
function cardPanel(path, signal) {
  const place = el("section", { class: "panel card-panel" }, el("p", { class: "quiet" }, "Loading…"));
  read(`${path}/report`, { signal }).then((report) => {
    const frame = el("iframe", { src: "page/card.html", sandbox: "allow-scripts", title: "Model card" });
    addEventListener("message", ({ source, data }) => {
      if (source !== frame.contentWindow) return;
      if (data.ready === true) frame.contentWindow.postMessage(report, "*"); // its origin has no name
      if (Number.isFinite(data.height)) frame.style.blockSize = `${Math.min(Math.max(data.height, 200), 30000)}px`;
    }, { signal });
    place.replaceChildren(el("p", { class: "panel-head" }, el("a", { href: address(`${path}/report`), target: "_blank", rel: "noreferrer" }, "Open it alone")), frame);
  }, (error) => {
    if (error.name !== "AbortError") place.replaceChildren(el("p", { class: "quiet" }, error.status === 404 ? "This version was published without a card." : error.message));
  });
  return place;
}
