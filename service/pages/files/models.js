// The first screen: every model with its versions, labels, score and traffic.

import { el, name } from "./dom.js";
import { watchTraffic } from "./traffic.js";
import { json } from "./server.js";
import * as show from "./show.js";

const EVERY_MS = 5000;

export async function showModels(view, signal) {
  document.title = "Rowcast";
  const traffic = watchTraffic(signal, null);
  const table = el("div");
  let shown = "";
  let filter = "";
  const search = el("input", {
    type: "search", id: "search", placeholder: "Name or target", "aria-label": "Find a model",
    input: () => { filter = search.value.trim().toLowerCase(); narrow(); },
  });
  function narrow() {
    for (const body of table.querySelectorAll("tbody")) {
      body.hidden = !body.dataset.found.includes(filter);
    }
  }
  const head = el("div", { class: "head" }, el("h1", {}, "Models"), search);
  async function refresh() {
    const all = await json("page/overview", { signal });
    say(all.not_ready);
    search.hidden = all.models.length < 4;
    const text = JSON.stringify(all);
    if (text === shown) return; // what is focused stays focused
    shown = text;
    table.replaceChildren(all.models.length ? tableOf(all) : el("p", { class: "empty" }, all.not_ready ?? "No model is live."));
    traffic.relabel(table);
    narrow();
  }
  await refresh();
  view.replaceChildren(head, traffic.element, table);
  const timer = setInterval(() => { if (!document.hidden) refresh().catch(({ name: kind, message }) => { if (kind !== "AbortError") say(message); }); }, EVERY_MS);
  signal.addEventListener("abort", () => clearInterval(timer));
}

// The word in the page's header: ready, or why not.
export function say(reason) {
  const state = document.getElementById("state");
  const text = reason ? `Not ready: ${reason}` : "Ready";
  if (state.textContent === text) return;
  state.textContent = text;
  state.dataset.state = reason ? "bad" : "good";
}

function tableOf({ models, default_model: standard }) {
  const heads = ["Model", "Predicts", "Features", "Score", "Versions", "Requests/s"];
  return el("div", { class: "wide" },
    el("table", { class: "models" },
      el("caption", { class: "hidden" }, "Models, their versions and their traffic"),
      el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col", class: isNumber(head) ? "number" : "" }, head)))),
      models.map((model) => rowOf(model, model.name === standard))));
}

function isNumber(head) {
  return ["Features", "Score", "Requests/s"].includes(head);
}

function rowOf(model, isStandard) {
  const found = [model.name, ...(model.targets ?? [])].join("\n").toLowerCase();
  const predicts = model.targets
    ? [model.targets.slice(0, 4).map((target, place) => [place ? ", " : "", name(target)]), model.targets.length > 4 && ` and ${model.targets.length - 4} more`,
      el("span", { class: "quiet" }, ` ${model.classes === null ? (model.targets.length === 1 ? "number" : "numbers") : show.count(model.classes, "class", "classes")}`)]
    : el("span", { class: "quiet" }, "nothing now");
  const reasons = [
    ...model.versions.filter((version) => version.reason).map((version) => version.reason),
    ...(model.labels_refused ? [model.labels_refused] : []),
  ];
  return el("tbody", { "data-found": found },
    el("tr", {},
      el("th", { scope: "row" }, model.answers ? el("a", { href: `./#/models/${model.name}` }, name(model.name)) : name(model.name),
        isStandard && el("span", { class: "chip" }, "default")),
      el("td", {}, predicts),
      el("td", { class: "number" }, model.features ?? "–"),
      el("td", { class: "number" }, scoreOf(model.score)),
      el("td", {}, el("span", { class: "chips" }, versionsOf(model))),
      el("td", { class: "number", "data-rate-of": model.name }, "–")),
    reasons.length > 0 && el("tr", { class: "reasons" }, el("td", { colspan: 6 }, reasons.map((reason) => el("p", { class: "problem" }, name(reason))))));
}

function scoreOf(score) {
  if (!score || score.value === null) return "–";
  return [el("span", { class: "quiet" }, `${show.metric(score.metric)} `), el("span", { title: `on the ${score.part} rows` }, score.value.toFixed(4))];
}

function versionsOf(model) {
  const last = 6;
  const shown = model.versions.filter(({ number, reason }, place) =>
    reason || place >= model.versions.length - last || Object.values(model.labels).includes(number));
  const more = model.versions.length - shown.length;
  return [
    more > 0 && el("span", { class: "quiet" }, `${more} more, `),
    shown.map(({ number, is_live: isLive, reason }) => {
      const labels = Object.keys(model.labels).filter((label) => model.labels[label] === number);
      const text = [number, labels.map((label) => [" ", el("b", {}, name(label))])];
      if (!isLive) return el("span", { class: "chip bad", title: reason ?? "not live" }, text, " refused");
      const isAnswering = number === model.answers;
      return el("a", { class: isAnswering ? "chip on" : "chip", href: `./#/models/${model.name}/versions/${number}`, title: isAnswering ? "answers when no version is named" : null }, text);
    }),
  ];
}
