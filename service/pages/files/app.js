// The page: its address says what it shows. `#/`: the models; `#/models/...`: one of them; /docs: the API.

import { showDocs } from "./docs.js";
import { el } from "./dom.js";
import { showModel } from "./model.js";
import { showModels } from "./models.js";

const view = document.getElementById("view");
let leave = new AbortController(); // ends what the last view had under way

function show() {
  leave.abort();
  leave = new AbortController();
  mark("to-docs", isDocs());
  mark("to-models", !isDocs());
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const parts = path.split("/").map(decoded);
  const tab = new URLSearchParams(query).get("tab");
  view.replaceChildren(el("p", { class: "quiet" }, "Loading…"));
  const shown = isDocs() ? showDocs(view, leave.signal)
    : parts[0] === "models" && parts[1] ? showModel(view, leave.signal, parts[1], parts[2], parts[3], tab)
      : showModels(view, leave.signal);
  shown.catch((error) => {
    if (error.name === "AbortError") return;
    document.title = "Rowcast";
    view.replaceChildren(el("p", { class: "problem", role: "alert" }, error.message), el("p", {}, el("a", { href: "./#/" }, "All models")));
  });
}

function isDocs() {
  return /\/docs\/?$/.test(location.pathname);
}

function mark(id, isHere) {
  if (isHere) document.getElementById(id).setAttribute("aria-current", "page");
  else document.getElementById(id).removeAttribute("aria-current");
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

let shownPath = null;
addEventListener("hashchange", () => {
  if (location.hash === "#view" || isDocs()) return; // links within what is shown
  const path = location.hash.split("?")[0];
  if (path !== shownPath) {
    shownPath = path;
    show();
    view.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
});
shownPath = location.hash.split("?")[0];
show();
