// The server's OpenAPI document as a page to read: every path with its request, its answers and an example.

import { el, name } from "./dom.js";
import { say } from "./models.js";
import { address, json } from "./server.js";

export async function showDocs(view, signal) {
  document.title = "API – Rowcast";
  const [document_, all] = await Promise.all([json("openapi.json", { signal }), json("page/overview", { signal })]);
  say(all.not_ready);
  const groups = new Map();
  for (const [path, methods] of Object.entries(document_.paths)) {
    for (const [method, operation] of Object.entries(methods).filter(([, { responses }]) => responses)) { // not what they share
      const group = /^\/v1\/models\/([\w.-]+)/.exec(path)?.[1] ?? "Server"; // a model's paths stand together
      groups.set(group, [...(groups.get(group) ?? []), { path, method, operation }]);
    }
  }
  const ids = new Map([...groups.keys()].map((group, place) => [group, `group-${place}`]));
  view.replaceChildren(el("div", { class: "docs" },
    el("nav", { class: "contents", "aria-label": "Contents" }, el("ul", {}, [...groups.keys()].map((group) => el("li", {}, el("a", { href: `#${ids.get(group)}` }, name(group)))))),
    el("div", {},
      el("div", { class: "head" }, el("h1", {}, "API"), el("a", { href: "openapi.json" }, "openapi.json")),
      el("p", {}, document_.info.description),
      document_.security.length > 0 && el("p", {}, "Every request carries a key: ", el("code", {}, "Authorization: Bearer …"), " or ", el("code", {}, "X-API-Key: …"), "."),
      [...groups].map(([group, operations]) => el("section", { id: ids.get(group), class: "group" }, el("h2", {}, name(group)), operations.map((one) => operationOf(one, document_)))))));
}

function operationOf({ path, method, operation }, whole) {
  const body = operation.requestBody?.content?.["application/json"];
  return el("details", { class: "operation" },
    el("summary", {}, el("span", { class: `method ${method}` }, method.toUpperCase()), el("code", { class: "path" }, name(path)), el("span", { class: "quiet" }, name(operation.summary ?? ""))),
    el("div", { class: "inside" },
      body?.example && [el("h3", {}, "For example"), el("pre", { tabindex: 0 }, el("code", {}, `curl -s ${quoted(address(path.slice(1)))} \\\n  -d ${quoted(JSON.stringify(body.example))}`))],
      body && [el("h3", {}, "Request"), schemaOf(body.schema, whole, 0)],
      el("h3", {}, "Answers"),
      el("table", { class: "answers" }, el("tbody", {}, Object.entries(operation.responses).map(([status, response]) => el("tr", {},
        el("th", { scope: "row" }, status),
        el("td", {}, name(response.description), Object.values(response.content ?? {}).filter(({ schema }) => schema?.$ref).map(({ schema }) => schemaOf(schema, whole, 0)))))))));
}

// A JSON Schema as nested lists; what is deep is opened by who wants it.
function schemaOf(schema, whole, depth) {
  if (schema.$ref) {
    const of = schema.$ref.split("/").at(-1);
    return el("details", { class: "schema", open: depth > 0 && depth < 2 }, el("summary", {}, name(of)), depth > 6 ? null : schemaOf(whole.components.schemas[of] ?? {}, whole, depth + 1));
  }
  if (schema.properties) {
    return el("dl", { class: "schema" }, Object.entries(schema.properties).map(([property, value]) => [
      el("dt", {}, el("code", {}, name(property)), schema.required?.includes(property) && el("span", { class: "quiet" }, " required")),
      el("dd", {}, schemaOf(value, whole, depth + 1))]));
  }
  if (schema.anyOf) {
    return el("div", { class: "schema" }, el("span", { class: "quiet" }, "one of"), el("ul", {}, schema.anyOf.map((one) => el("li", {}, schemaOf(one, whole, depth + 1)))), said(schema));
  }
  if (schema.items && schema.type === "array") return el("div", { class: "schema" }, el("span", { class: "type" }, "array of "), schemaOf(schema.items, whole, depth + 1), said(schema));
  const values = schema.enum ?? (schema.const === undefined ? null : [schema.const]);
  const text = values ? values.slice(0, 20).map((value) => JSON.stringify(value)).join(", ") + (values.length > 20 ? ", …" : "") : [schema.type ?? "anything"].flat().join(" or ");
  return el("span", { class: "schema" }, el("span", { class: "type" }, name(text)), said(schema));
}

function said(schema) {
  return schema.description ? el("span", { class: "quiet" }, " ", name(schema.description)) : null;
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
