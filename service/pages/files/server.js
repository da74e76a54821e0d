// Asks the server. Its errors become `Problem`s, and a key that it wants is asked for and kept in this tab.

const KEPT = "rowcast-key";

export class Problem extends Error {
  constructor(said, status) {
    super(said.error);
    this.status = status;
    this.code = said.code;
    this.row = said.row;
    this.feature = said.feature;
    this.expected = said.expected;
    this.got = said.got;
  }
}

// The text at a path, relative to the page.
export async function read(path, options = {}) {
  return (await ask(path, options)).text();
}

// The JSON at a path; with `body`, what is answered to it, or to the text of another type.
export async function json(path, { body, text, type = "application/json", signal } = {}) {
  const options = { signal };
  if (body !== undefined || text !== undefined) {
    Object.assign(options, { method: "POST", body: text ?? JSON.stringify(body), headers: { "content-type": type, accept: "application/json" } });
  }
  return (await ask(path, options)).json();
}

export function hasKey() {
  return sessionStorage.getItem(KEPT) !== null;
}

// The address of a path as programs elsewhere would write it.
export function address(path) {
  return new URL(path, document.baseURI).href;
}

async function ask(path, options) {
  for (;;) {
    const key = sessionStorage.getItem(KEPT);
    const headers = key === null ? options.headers : { ...options.headers, authorization: `Bearer ${key}` };
    const answer = await reach(path, { ...options, headers });
    if (answer.ok) return answer;
    const problem = await problemOf(answer);
    if (answer.status !== 401) throw problem;
    await askForKey(key);
  }
}

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ error: "the server cannot be reached", code: "unreachable" }, 0);
  }
}

async function problemOf(answer) {
  try {
    return new Problem(await answer.json(), answer.status);
  } catch {
    return new Problem({ error: `the server answered with status ${answer.status}`, code: "unknown" }, answer.status);
  }
}

let asking = null; // several requests may want the key at once: they wait for one dialog

function askForKey(refused) {
  if (sessionStorage.getItem(KEPT) !== refused) return Promise.resolve(); // given while this request was on its way
  asking ??= new Promise((resolve) => {
    const dialog = document.getElementById("key-dialog");
    const form = document.getElementById("key-form");
    const input = document.getElementById("key");
    if (refused !== null) document.getElementById("key-said").textContent = "The server does not know this key.";
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      sessionStorage.setItem(KEPT, input.value);
      input.value = "";
      asking = null;
      dialog.close();
      resolve();
    }, { once: true });
    dialog.addEventListener("close", () => { if (asking) dialog.showModal(); }); // the second Escape closes whatever a page says
    dialog.showModal();
  });
  return asking;
}
