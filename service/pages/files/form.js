// A form made from a model's features: one row, as it is typed. An empty field is a missing value.

import { el, fresh, name } from "./dom.js";
import * as show from "./show.js";

const MOST_OPTIONS = 200; // beyond these a list to type in serves better than one to open
const ANOTHER = "\u0000another";
const MISSING = "\u0000missing";

// `changed` is called at each change.
export function formOf(features, example, changed) {
  const fields = new Map(features.map((feature) => [feature.name, fieldOf(feature, changed)]));
  const reset = el("button", { type: "button", click: () => { set(example ?? {}); changed(); } }, "Example row");
  const clear = el("button", { type: "button", click: () => { set({}); changed(); } }, "All missing");
  const element = el("form", { class: "row-form", submit: (event) => event.preventDefault(), "aria-label": "One row" },
    el("div", { class: "fields" }, [...fields.values()].map((field) => field.element)),
    el("div", { class: "buttons" }, example && reset, clear));

  function set(row) {
    for (const [feature, field] of fields) field.set(Object.hasOwn(row, feature) ? row[feature] : null);
  }
  set(example ?? {});
  return {
    element,
    set: (feature, value) => { fields.get(feature).set(value); changed(); },
    // The row, feature to value, or null while a field holds what is no value of its kind. A Map: a feature may be
    // called __proto__.
    row() {
      const row = new Map();
      let isWhole = true;
      for (const [feature, field] of fields) {
        field.say(field.faults());
        if (field.faults()) isWhole = false;
        row.set(feature, field.value());
      }
      return isWhole ? row : null;
    },
    // Shows what the server said about a feature; false if it has no such field.
    say(feature, text) {
      fields.get(feature)?.say(text);
      return fields.has(feature);
    },
  };
}

function fieldOf(feature, changed) {
  const id = fresh("field");
  const said = el("p", { class: "said", id: `${id}-said` });
  const control = { number: numberField, category: categoryField, boolean: booleanField, datetime: datetimeField }[feature.kind](feature, id, changed);
  const hint = [control.hint, feature.missing_share > 0 && `missing in ${show.share(feature.missing_share)}`].filter(Boolean);
  const element = el("div", { class: "field" },
    el("label", { for: id }, name(feature.name), feature.unit && el("span", { class: "quiet" }, " ", name(feature.unit))),
    control.elements,
    el("p", { class: "hint", id: `${id}-hint` }, hint.join(" · ")),
    said);
  control.input.setAttribute("aria-describedby", `${id}-hint ${id}-said`);
  return {
    element,
    value: control.value,
    set: control.set,
    faults: () => control.faults?.() ?? null,
    say(text) {
      const shown = text || control.warning?.() || "";
      if (said.textContent !== shown) said.textContent = shown;
      element.classList.toggle("faulty", Boolean(text));
      control.input.setAttribute("aria-invalid", String(Boolean(text)));
    },
  };
}

function numberField(feature, id, changed) {
  const input = el("input", { id, inputmode: "decimal", autocomplete: "off", placeholder: "missing", input: () => { slide(); changed(); } });
  const [low, high] = feature.range ?? [0, 0];
  const whole = Number.isInteger(low) && Number.isInteger(high) && high - low >= 10;
  const slider = high > low && el("input", {
    type: "range", min: low, max: high, step: whole ? 1 : "any", "aria-label": `${feature.name}, in the range of the training rows`,
    input: () => { input.value = String(whole ? Number(slider.value) : show.within(Number(slider.value), feature.range, 5)); changed(); },
    keydown: (event) => step(event, slider, (high - low) / 100),
  });
  function value() {
    const text = input.value.trim().replace(/^(-?)\./, "$10.");
    return text === "" ? null : Number(text);
  }
  function slide() {
    const current = value();
    if (slider && current !== null && Number.isFinite(current)) slider.value = current;
  }
  return {
    input, value,
    elements: [input, slider],
    hint: feature.range ? `${show.number(low)} to ${show.number(high)}` : "always missing in training",
    set: (given) => { input.value = given === null ? "" : String(given); slide(); },
    faults: () => (value() !== null && !Number.isFinite(value()) ? "Not a number" : null),
    warning: () => {
      const current = value();
      return feature.range && current !== null && (current < low || current > high) ? "Outside what training saw" : null;
    },
  };
}

// With step "any" the arrow keys of a slider do what a browser likes: here, a hundredth of the range.
function step(event, slider, size) {
  const way = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10 }[event.key];
  if (!way || slider.step !== "any") return;
  event.preventDefault();
  slider.value = Number(slider.value) + way * size;
  slider.dispatchEvent(new Event("input"));
}

function categoryField(feature, id, changed) {
  if (feature.categories.length > MOST_OPTIONS) return longCategoryField(feature, id, changed);
  const other = el("input", { class: "other", "aria-label": `${feature.name}, another text`, placeholder: "any text", autocomplete: "off", hidden: true, input: changed });
  const select = el("select", { id, change: () => { other.hidden = select.value !== ANOTHER; if (!other.hidden) other.focus(); changed(); } },
    feature.categories.map((category, place) => el("option", { value: String(place) }, category === "" ? "(empty text)" : category)),
    el("option", { value: ANOTHER }, "another…"),
    el("option", { value: MISSING }, "missing"));
  return {
    input: select,
    elements: [select, other],
    hint: show.count(feature.categories.length, "category", "categories"),
    value: () => (select.value === MISSING ? null : select.value === ANOTHER ? other.value : feature.categories[Number(select.value)]),
    set(given) {
      const place = given === null ? -1 : feature.categories.indexOf(String(given));
      select.value = given === null ? MISSING : place < 0 ? ANOTHER : String(place);
      other.hidden = select.value !== ANOTHER;
      other.value = other.hidden ? "" : String(given);
    },
    warning: () => (select.value === ANOTHER ? "Counts as unknown" : null),
  };
}

function longCategoryField(feature, id, changed) {
  const list = fresh("list");
  const known = new Set(feature.categories);
  const input = el("input", { id, list, autocomplete: "off", placeholder: "missing", input: changed });
  return {
    input,
    elements: [input, el("datalist", { id: list }, feature.categories.slice(0, 2000).map((value) => el("option", { value })))],
    hint: show.count(feature.categories.length, "category", "categories"),
    value: () => (input.value === "" ? null : input.value),
    set: (given) => { input.value = given === null ? "" : String(given); },
    warning: () => (input.value !== "" && !known.has(input.value) ? "Counts as unknown" : null),
  };
}

function booleanField(feature, id, changed) {
  const select = el("select", { id, change: changed },
    el("option", { value: "true" }, "true"), el("option", { value: "false" }, "false"), el("option", { value: "" }, "missing"));
  return {
    input: select,
    elements: [select],
    hint: feature.true_share === null || feature.true_share === undefined ? "" : `true in ${show.share(feature.true_share)}`,
    value: () => (select.value === "" ? null : select.value === "true"),
    set: (given) => { select.value = given === null ? "" : String(Boolean(given)); },
  };
}

function datetimeField(feature, id, changed) {
  const input = el("input", { id, type: "datetime-local", step: 1, input: changed });
  return {
    input,
    elements: [input],
    hint: feature.range_days ? `${show.day(feature.range_days[0]).slice(0, 10)} to ${show.day(feature.range_days[1]).slice(0, 10)}, UTC` : "UTC",
    value: () => (input.value === "" ? null : input.value),
    set: (given) => { input.value = given === null ? "" : localOf(given); },
    faults: () => (input.validity.badInput ? "Not a whole date and time" : null),
    warning: () => {
      const days = Date.parse(`${input.value}Z`) / 86400000;
      return feature.range_days && (days < feature.range_days[0] || days > feature.range_days[1]) ? "Outside what training saw" : null;
    },
  };
}

// ISO 8601 as the control takes it: in UTC, without an offset.
function localOf(text) {
  const at = new Date(/[T ]/.test(text) && !/(Z|[+-]\d\d:?\d\d)$/.test(text) ? `${text.replace(" ", "T")}Z` : text);
  return Number.isNaN(at.getTime()) ? "" : at.toISOString().slice(0, 19);
}
