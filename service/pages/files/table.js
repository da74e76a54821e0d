// A whole table: a CSV file in, the same rows with their predictions out. The page takes the columns of the features out
// of it; what a cell means is for the server to say, which gets some rows at a time.

import { el, fresh, name } from "./dom.js";
import { json } from "./server.js";
import * as show from "./show.js";

const ROWS_AT_ONCE = 2000;
const PREVIEW = 10;
const MOST_TRIES = 5;
const PASSING = [0, 429, 502, 503]; // 0: nobody answered

export function tablePanel(about, path, signal) {
  const id = fresh("file");
  const said = el("p", { class: "said-of-table", role: "status" });
  const out = el("div");
  const input = el("input", { type: "file", id, accept: ".csv,text/csv,.tsv,.txt", change: () => input.files[0] && take(input.files[0]) });
  const drop = el("div", { class: "drop", dragover: (event) => { event.preventDefault(); drop.classList.add("over"); }, dragleave: () => drop.classList.remove("over"),
    drop: (event) => { event.preventDefault(); drop.classList.remove("over"); if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]); } },
    el("label", { for: id }, "Choose a CSV file, or drop one here"), input);
  const needed = el("p", { class: "quiet" }, "Columns, in any order: ",
    about.features.map((feature, place) => [place ? ", " : "", name(feature.name)]), ". Others are kept as they are. Empty cells are missing values, and so are NA and null where no category is expected.");
  let running = null;

  async function take(file) {
    running?.abort();
    running = new AbortController();
    const mine = AbortSignal.any([signal, running.signal]);
    out.replaceChildren();
    said.className = "said-of-table";
    try {
      const table = readTable(textIn(await file.arrayBuffer()));
      const columns = columnsOf(about.features, table.header);
      const bar = el("progress", { max: table.rows.length, value: 0, "aria-label": "Rows answered" });
      out.replaceChildren(bar);
      const answers = [];
      for (let start = 0; start < table.rows.length; start += ROWS_AT_ONCE) {
        const rows = table.rows.slice(start, start + ROWS_AT_ONCE).map((cells) => columns.map((place) => cells[place]));
        const asked = { text: sentOf(rows), type: "text/csv; header=absent", signal: mine };
        answers.push(...linesOf(about, await patiently(() => json(`${path}:predict`, asked), mine, start)));
        bar.value = answers.length;
        said.textContent = `${answers.length.toLocaleString("en")} of ${show.count(table.rows.length, "row")}`;
      }
      const heads = headsOf(about, table.header);
      const lines = table.rows.map((cells, row) => [...cells, ...answers[row]]);
      const url = URL.createObjectURL(new Blob([textOf([[...table.header, ...heads], ...lines])], { type: "text/csv" }));
      signal.addEventListener("abort", () => URL.revokeObjectURL(url));
      said.textContent = `${show.count(table.rows.length, "row")} answered.`;
      out.replaceChildren(
        el("p", {}, el("a", { class: "primary", href: url, download: `${file.name.replace(/\.[^.]*$/, "")}-predictions.csv` }, "Download the predictions")),
        preview([...table.header, ...heads], lines, table.header.length));
    } catch (error) {
      if (error.name === "AbortError") return;
      out.replaceChildren();
      said.className = "said-of-table problem";
      said.textContent = error.message;
    } finally {
      input.value = "";
    }
  }
  return el("section", { class: "panel table-panel" }, el("h2", {}, "Predict a table"), needed, drop, said, out);
}

// Asks again where the server is full, or starts anew, or the key has asked too often; names the line of the file where a row is wrong.
async function patiently(act, signal, start) {
  for (let tries = 1; ; tries += 1) {
    try {
      return await act();
    } catch (error) {
      if (PASSING.includes(error.status) && tries < MOST_TRIES) {
        await new Promise((resolve) => { setTimeout(resolve, 500 * tries); });
        signal.throwIfAborted();
        continue;
      }
      if (Number.isInteger(error.row)) error.message = `Row ${start + error.row + 1} of the file${error.feature ? `, column '${error.feature}'` : ""}: ${error.expected ?? error.message}${error.got ? `, got ${error.got}` : ""}`;
      throw error;
    }
  }
}

// Which column holds which feature.
function columnsOf(features, header) {
  const missing = features.filter((feature) => !header.includes(feature.name));
  if (missing.length) {
    throw new Error(`The file has no column ${missing.slice(0, 5).map((feature) => `'${feature.name}'`).join(", ")}${missing.length > 5 ? ` and ${missing.length - 5} more` : ""}; it has ${header.slice(0, 8).map((head) => `'${head}'`).join(", ")}${header.length > 8 ? ", …" : ""}`);
  }
  return features.map((feature) => header.indexOf(feature.name));
}

const NUMBER = /^-?\d+(\.\d+)?(e[+-]?\d+)?$/;

// The cells of some rows, each quoted: a line of one empty cell is a row, too.
function sentOf(rows) {
  return rows.map((cells) => cells.map((cell) => `"${cell.replaceAll('"', '""')}"`).join(",")).join("\n");
}

function headsOf({ targets, classes }, taken) {
  const heads = [...targets.map((target) => `predicted ${target}`), ...(classes ?? []).map((label) => `probability of ${label}`)];
  return heads.map((head) => { let free = head; while (taken.includes(free)) free += " "; return free; });
}

function linesOf({ classes }, answer) {
  return answer.predictions.map((prediction, row) => [prediction, classes ? answer.probabilities[row] : []].flat().map(String));
}

function preview(heads, lines, own) {
  return el("div", { class: "wide" }, el("table", { class: "preview" }, el("caption", {}, lines.length > PREVIEW ? `The first ${PREVIEW} rows` : "The rows"),
    el("thead", {}, el("tr", {}, heads.map((head, place) => el("th", { scope: "col", class: place >= own ? "predicted" : "" }, name(head))))),
    el("tbody", {}, lines.slice(0, PREVIEW).map((cells) => el("tr", {}, cells.map((cell, place) => el("td", { class: place >= own ? "predicted" : "" }, name(place >= own && NUMBER.test(cell) ? show.number(Number(cell)) : cell))))))));
}

// A category whose letters were replaced would be one that nobody knows, answered without a word.
function textIn(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new Error("The file is not UTF-8; save it as CSV in UTF-8");
  }
}

// CSV of RFC 4180, by commas, semicolons, tabs or bars, whichever the header has most of outside of quotes.
export function readTable(text) {
  const clean = text.replace(/^\uFEFF/, "");
  const head = clean.slice(0, clean.search(/\r?\n|$/));
  const bare = head.split('"').filter((_, place) => place % 2 === 0).join("");
  const separator = [",", ";", "\t", "|"].map((mark) => [bare.split(mark).length, mark]).sort((a, b) => b[0] - a[0])[0][1];
  const lines = [];
  let cells = [], cell = "", isQuoted = false, wasQuoted = false;
  const endCell = () => { cells.push(cell); cell = ""; wasQuoted = false; };
  const endLine = () => { const isBlank = cells.length === 0 && cell === "" && !wasQuoted; endCell(); if (!isBlank) lines.push(cells); cells = []; };
  for (let at = 0; at < clean.length; at += 1) {
    const mark = clean[at];
    if (isQuoted) {
      if (mark !== '"') cell += mark;
      else if (clean[at + 1] === '"') { cell += '"'; at += 1; } else isQuoted = false;
    } else if (mark === '"' && cell === "") isQuoted = wasQuoted = true;
    else if (mark === separator) endCell();
    else if (mark === "\n") endLine();
    else if (mark !== "\r" || clean[at + 1] !== "\n") cell += mark;
  }
  if (isQuoted) throw new Error("The file ends within a quoted cell");
  endLine();
  const [names, ...rows] = lines;
  const header = names?.map((column) => column.trim());
  if (!header || rows.length === 0) throw new Error("The file has no rows below its header");
  const odd = rows.findIndex((row) => row.length !== header.length);
  if (odd >= 0) throw new Error(`Row ${odd + 1} of the file has ${show.count(rows[odd].length, "cell")}, its header ${header.length}`);
  const twice = header.find((column, place) => column && header.indexOf(column) !== place);
  if (twice !== undefined) throw new Error(`The file has two columns called '${twice}'`);
  return { header, rows };
}

export function textOf(lines) {
  return lines.map((cells) => cells.map((cell) => (/[",\r\n;\t]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell)).join(",")).join("\r\n") + "\r\n";
}
