// What every page of the dashboard is made of: elements, numbers in words, asking the app.

export const TONES = {
  verified: "good", restored: "good", passed: "good", approved: "good",
  asked: "info", applied: "info", underway: "info", training: "info", evaluating: "info", "rolling-out": "info", retrain: "info",
  "awaiting-approval": "warn", inconclusive: "warn", deferred: "warn", restoring: "warn", open: "warn", frozen: "warn",
  failed: "bad", stuck: "bad", silent: "bad", "rolling-back": "bad", "rolled-back": "bad",
};
export const $ = (id) => document.getElementById(id);

// --- elements; text is only ever text

const SVG = new Set(["svg", "rect", "line", "circle", "path", "g", "title", "text"]);

export function el(tag, attributes = {}, ...children) {
  const made = SVG.has(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((c) => c != null && c !== "" && c !== false));
  return made;
}

export const pill = (word, tone) => el("span", { class: `pill ${tone ?? TONES[word] ?? "neutral"}` }, word);
export const empty = (...text) => el("p", { class: "empty" }, text);
export const code = (digest) => el("code", { title: digest || false }, (digest || "none").slice(0, 12));
export const sub = (...text) => el("span", { class: "sub" }, text);
export const card = (title, ...body) => {
  const id = `h-${title.toLowerCase().replace(/[^a-z0-9]+/g, "-")}`;
  return el("section", { "aria-labelledby": id }, el("h2", { id }, title), body);
};
export const facts = (pairs) => el("dl", { class: "facts" },
  Object.entries(pairs).filter(([, v]) => v != null && v !== "" && v !== false).map(([k, v]) => [el("dt", {}, k), el("dd", {}, v)]));
export const table = (label, head, rows) => el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `${label}, a table` },
  el("table", {}, el("thead", {}, el("tr", {}, head.map((h) => el("th", { scope: "col", class: h.startsWith(">") ? "n" : false }, h.replace(">", ""))))),
    el("tbody", {}, rows)));

// --- words

export const count = (n) => n.toLocaleString("en");
export const plural = (n, noun, many) => `${count(n)} ${n === 1 ? noun : many ?? `${noun}s`}`;
export const when = (iso) => (iso ? iso.slice(0, 16).replace("T", " ") : "never");
export const day = (iso) => iso.slice(0, 10);
export function ago(iso, now) {
  const minutes = Math.round((Date.parse(now) - Date.parse(iso)) / 60000);
  if (minutes < 60) return minutes < 2 ? "just now" : `${minutes} minutes ago`;
  return minutes < 2880 ? `${Math.round(minutes / 60)} hours ago` : `${Math.round(minutes / 1440)} days ago`;
}
export const number = (v, digits = 4) => (typeof v === "number" ? v.toFixed(digits) : "not known");
export const signed = (v) => (typeof v === "number" ? (v > 0 ? "+" : "") + v.toFixed(4) : "not known");

// A reason without what its footnotes say again and again; the whole of it is where the decision is shown in full.
export const brief = (text) => text
  .replace(/ ?\(not covered: [^()]*(?:\([^()]*\)[^()]*)*\)/g, "")
  .replace(/; promise not covered: [^;]*(?:; a period[^;]*)?/g, "")
  .replace(/\d(?:\.\d+)?e\+\d+/g, (n) => count(Number(n)))
  .replace(/evidence ([\d.,]+) >= ([\d.,]+)/g, "evidence $1, limit $2");

// What was found, in lines: rules that many features break at the same sites are one line.
export function findings(found) {
  const lines = new Map();
  for (const f of found) {
    const key = f.statistical || f.features.length !== 1 ? f : `${f.kind} ${f.sites}`;
    lines.set(key, [...(lines.get(key) ?? []), f]);
  }
  return el("ul", { class: "plain" }, [...lines.values()].map((same) => {
    const [f] = same;
    const said = same.length === 1 ? brief(f.reason) : `${same.map((x) => x.features[0]).join(", ")} at ${f.sites.slice(0, 5).join(", ")}`;
    return el("li", { title: same.map((x) => x.reason).join("\n") }, pill(f.statistical ? f.kind : `${f.kind} (a rule)`, f.statistical ? "bad" : "warn"), ` ${said}`);
  }));
}

// --- asking

const kept = new Map();
export const state = { session: { person: "", roles: [], csrf: "", looks: true }, now: "", loop: "" };
export const may = (role) => state.session.roles.includes(role);
export const loopPath = (rest = "") => `loops/${encodeURIComponent(state.loop)}${rest}`;

export class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

async function refused(answer) {
  throw new Problem(answer.status, (await answer.json().catch(() => ({}))).detail ?? `the app answers ${answer.status}`);
}

// What is at a path; asked for again, only what has changed comes over the line, and what has not is the same object. Who
// asks while an answer is under way gets that one.
const underway = new Map();
export function get(path) {
  if (!underway.has(path)) underway.set(path, fetched(path).finally(() => underway.delete(path)));
  return underway.get(path);
}

async function fetched(path) {
  const before = kept.get(path);
  const headers = { accept: "application/json", ...(before ? { "if-none-match": before.tag } : {}) };
  const answer = await fetch(`/api/${path}`, { headers });
  if (answer.headers.has("driftloop-now")) state.now = answer.headers.get("driftloop-now");
  if (answer.status === 304) return before.found;
  if (!answer.ok) await refused(answer);
  const found = await answer.json();
  if (answer.headers.has("etag")) {
    kept.delete(path);
    kept.set(path, { tag: answer.headers.get("etag"), found });
    if (kept.size > 40) kept.delete(kept.keys().next().value);
  }
  return found;
}

export async function post(path, body) {
  const headers = { "content-type": "application/json", "x-csrf-token": state.session.csrf };
  const answer = await fetch(`/api/${path}`, { method: "POST", headers, body: JSON.stringify(body) });
  if (!answer.ok) await refused(answer);
  return answer.json();
}

// --- doing: always with a reason, and never at the first click

export function ask({ title, text, action, targets = [], stop = false }, send) {
  const form = $("ask").querySelector("form");
  form.reset();
  $("ask-title").textContent = title;
  $("ask-text").textContent = text;
  $("ask-error").hidden = true;
  $("ask-where").hidden = !targets.length;
  const yes = $("ask-yes");
  yes.textContent = action;
  yes.className = stop ? "stop solid" : "go";
  form.target.replaceChildren(...targets.map(([value, name]) => el("option", { value }, name)));
  form.onsubmit = async (event) => {
    if (event.submitter?.value !== "yes") return;
    event.preventDefault();
    try {
      await send(form.reason.value, form.target.value);
      $("ask").close();
      dispatchEvent(new Event("changed"));
    } catch (problem) {
      $("ask-error").textContent = problem.message;
      $("ask-error").hidden = false;
    }
  };
  $("ask").showModal();
}

export function askFreeze(site = "") {
  const here = site ? [[`${state.loop}/${site}`, `the site ${site}`]] : [];
  ask({
    title: "Freeze",
    text: "Nothing new begins there until it is lifted: no training, no approval, no deployment. A job at work is cancelled; the way back stays open.",
    action: "Freeze",
    stop: true,
    targets: [...here, [state.loop, `the loop ${state.loop}`], ["all", "everything"]],
  }, (reason, target) => post("freeze", { reason, target }));
}

export const askUnfreeze = (target) => ask({
  title: `Unfreeze ${target}`, text: "What waited goes on at once.", action: "Unfreeze",
}, (reason) => post("unfreeze", { reason, target }));

const RUN_WORDS = {
  cancel: ["Cancel this run", "It ends; sites that it has reached go back.", "Cancel the run", true],
  rollback: ["Take this run back", "Every site that it has reached goes back to its last known good.", "Take it back", true],
  pause: ["Pause this rollout", "Nothing new begins in it; sites that are being changed go on.", "Pause", false],
  resume: ["Resume this rollout", "It goes on where it was paused.", "Resume", false],
};
export function askRun(id, what) {
  const [title, text, action, stop] = RUN_WORDS[what];
  ask({ title, text, action, stop }, (reason) => post(`runs/${encodeURIComponent(id)}/${what}`, { reason }));
}
export const runButtons = (id, offered) => (may("operate") ? offered : []).map((what) =>
  el("button", { class: RUN_WORDS[what][3] ? "stop" : false, onclick: () => askRun(id, what), "data-key": `${what}/${id}` }, `${RUN_WORDS[what][2]}…`));

// --- addresses: #/runs/ID?loop=flights

export const to = (path, more = {}) => {
  const query = new URLSearchParams(state.several ? { loop: state.loop, ...more } : more).toString();
  return `#/${path.split("/").map(encodeURIComponent).join("/")}${query ? `?${query}` : ""}`;
};
export const runLink = (id) => to(`runs/${id}`);
