// The request of the form as a program would send it: curl, Python and JavaScript.

import { el, fresh } from "./dom.js";
import { address, hasKey } from "./server.js";

// `row` is a Map; the texts are safe to paste whatever the features and values are called.
export function snippetsOf(path, row) {
  const url = address(path);
  const body = (key) => `{"instances": [{${[...row].map(([feature, value]) => `${key(feature)}: ${plain(value)}`).join(", ")}}]}`;
  return { curl: curl(url, body(plain)), Python: python(url, row), JavaScript: javascript(url, body(keyInJavaScript)) };
}

function curl(url, body) {
  const key = hasKey() ? ` \\\n  -H "Authorization: Bearer $ROWCAST_API_KEY"` : "";
  return `curl -s ${quoted(url)}${key} \\\n  -H 'Content-Type: application/json' \\\n  -d ${quoted(body)}`;
}

function python(url, row) {
  const values = [...row].map(([feature, value]) => `    ${plain(feature)}: ${pythonValue(value)},`).join("\n");
  const key = hasKey() ? `,\n    "Authorization": "Bearer " + os.environ["ROWCAST_API_KEY"]` : "";
  return `import json${hasKey() ? "\nimport os" : ""}
from urllib.request import Request, urlopen

row = {
${values}
}
request = Request(
    ${plain(url)},
    json.dumps({"instances": [row]}).encode(),
    {"Content-Type": "application/json"${key}},
)
print(json.load(urlopen(request)))`;
}

function javascript(url, body) {
  const key = hasKey() ? `, Authorization: \`Bearer \${key}\`` : "";
  return `const answer = await fetch(${plain(url)}, {
  method: "POST",
  headers: { "Content-Type": "application/json"${key} },
  body: JSON.stringify(${body}),
});
console.log(await answer.json());`;
}

// JSON in ASCII: no character of a name can turn the text around it or hide in it.
function plain(value) {
  return JSON.stringify(value).replace(/[^ -~]/g, (mark) => `\\u${mark.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

// In an object of JavaScript this one name, unless it is computed, is not that of a property.
function keyInJavaScript(feature) {
  return feature === "__proto__" ? '["__proto__"]' : plain(feature);
}

function pythonValue(value) {
  if (value === null) return "None";
  return typeof value === "boolean" ? (value ? "True" : "False") : plain(value);
}

// One word of a POSIX shell.
function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

// A panel that shows them; call `show` with each new row.
export function snippetPanel(path) {
  const code = el("code");
  const said = el("span", { class: "quiet", role: "status" });
  let texts = {}, shown = "curl";
  const group = fresh("language");
  const choices = ["curl", "Python", "JavaScript"].map((language) => {
    const id = fresh("choice");
    return [el("input", { type: "radio", id, name: group, checked: language === shown, change: () => { shown = language; draw(); } }), el("label", { for: id }, language)];
  });
  const copy = el("button", { type: "button", click: async () => {
    await (navigator.clipboard?.writeText(texts[shown]) ?? Promise.reject(new Error("no clipboard without HTTPS"))).then(() => { said.textContent = "Copied"; }, () => { said.textContent = "Select the text and copy it"; });
    setTimeout(() => { said.textContent = ""; }, 2000);
  } }, "Copy");
  const draw = () => { code.textContent = texts[shown] ?? ""; };
  const element = el("section", { class: "panel code" },
    el("div", { class: "panel-head" }, el("h2", {}, "As a request"),
      el("fieldset", { class: "switch" }, el("legend", { class: "hidden" }, "Language"), choices), said, copy),
    el("pre", { tabindex: 0 }, code));
  return { element, show(row) { texts = snippetsOf(path, row); draw(); } };
}
