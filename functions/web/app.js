// The dashboard: asks the app every two seconds, and draws only what has changed.

const EVERY = 2000;
const STEPS = [0.02, 0.05, 0.1, 0.25];
const TONES = {
  verified: "good", restored: "good", applied: "info", asked: "info", restoring: "warn", deferred: "warn",
  failed: "bad", waiting: "neutral", planned: "neutral",
  training: "info", evaluating: "info", "awaiting-approval": "warn", "rolling-out": "info", "rolling-back": "bad",
  rejected: "neutral", "rolled-back": "bad", cancelled: "neutral", superseded: "neutral", expired: "neutral",
  passed: "good", inconclusive: "warn", hold: "neutral", retrain: "info",
};

const $ = (id) => document.getElementById(id);
const seen = {};
let session = { person: "", roles: [], csrf: "" };
let loops = null;
let fleet = null;
let drift = null;
let runs = null;
let opened = null;
let checked = "";
let picked = null;

// --- making elements; text is only ever text

function el(tag, attributes = {}, ...children) {
  const made = tag === "svg" || el.svg.has(tag)
    ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((c) => c != null && c !== "" && c !== false));
  return made;
}
el.svg = new Set(["rect", "line", "text", "g", "title"]);

const pill = (word, tone) => el("span", { class: `pill ${tone ?? TONES[word] ?? "neutral"}` }, word);
const empty = (text) => el("p", { class: "empty" }, text);
const code = (digest) => el("code", { title: digest }, (digest || "none").slice(0, 12));
const count = (n) => n.toLocaleString("en");
const plural = (n, noun) => `${count(n)} ${noun}${n === 1 ? "" : "s"}`;
const when = (iso) => (iso ? iso.slice(0, 16).replace("T", " ") : "never");
const facts = (pairs) => el("dl", { class: "facts" },
  Object.entries(pairs).filter(([, v]) => v != null && v !== "").map(([k, v]) => [el("dt", {}, k), el("dd", {}, v)]));

// Draw into an element when its data is new; what had the focus keeps it.
function draw(id, data, build) {
  const now = JSON.stringify(data);
  if (seen[id] === now) return;
  seen[id] = now;
  const key = $(id).contains(document.activeElement) && document.activeElement.dataset.key;
  $(id).replaceChildren(...[build()].flat().filter(Boolean));
  if (key) $(id).querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
}

// --- where we are: #loop=flights&run=flights.2013-04-12.1

const place = () => Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
const link = (to) => `#${new URLSearchParams({ loop: current(), ...to })}`;

function current() {
  const run = place().run ?? "";
  const wanted = place().loop ?? run.split(".")[0];
  return loops?.loops.find((l) => l.name === wanted)?.name ?? loops?.loops[0]?.name ?? "";
}

// --- asking

async function get(path) {
  const answer = await fetch(`/api/${path}`, { headers: { accept: "application/json" } });
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).detail ?? `${answer.status}`);
  return answer.json();
}

async function refresh() {
  loops = await get("loops");
  const name = current();
  if (name) {
    const path = `loops/${encodeURIComponent(name)}`;
    [fleet, runs] = await Promise.all([get(path), get(`${path}/runs`)]);
    const mark = [name, fleet.decision?.at, $("days").value, $("metric").value].join();
    if (mark !== checked) {
      const query = `days=${$("days").value}&metric=${$("metric").value || "psi"}`;
      let decided;
      [drift, decided] = await Promise.all([get(`${path}/drift?${query}`), get(`${path}/decisions?limit=20`)]);
      checked = mark;
      draw("decisions", decided.decisions, () => decisions(decided.decisions));
    }
    if (seen.total !== `${name}/${fleet.quarantined}`) {
      const found = await get(`${path}/quarantine`);
      seen.total = `${name}/${fleet.quarantined}`;
      draw("quarantine", found, () => quarantine(found));
    }
    const run = runs.runs.find((r) => r.id === place().run);
    if (!run) opened = null;
    else if (opened?.mark !== JSON.stringify(run) || !run.final) {
      const id = encodeURIComponent(run.id);
      const [detail, story] = await Promise.all([get(`runs/${id}`), get(`runs/${id}/story`)]);
      opened = { mark: JSON.stringify(run), detail, story };
    }
  }
  show();
}

async function tick() {
  if (!document.hidden) {
    try {
      await refresh();
      $("trouble").textContent = "";
    } catch (problem) {
      const since = new Date().toLocaleTimeString();
      if (!$("trouble").textContent) $("trouble").textContent = `No answer since ${since} (${problem.message}). Trying again.`;
    }
  }
  setTimeout(tick, EVERY);
}

// --- drawing

function show() {
  $("now").textContent = `${when(loops.now)} UTC`;
  $("now").setAttribute("datetime", loops.now);
  draw("loops", [loops.loops.map((l) => l.name), current()], () => loops.loops.map((l) =>
    el("a", { href: `#loop=${encodeURIComponent(l.name)}`, "aria-current": l.name === current() && "page", "data-key": l.name }, l.name)));
  draw("who", session, who);
  document.body.classList.toggle("bare", !current());
  if (!current()) {
    draw("fleet", loops.unreadable, () => (loops.unreadable.length ? unreadable() : el("p", { class: "empty" }, "No loop yet. ",
      el("code", {}, "driftloop new NAME --data FILE"), " writes one from a table of yours.")));
    return;
  }
  const about = fleet.loop;
  draw("notices", [loops.frozen_all, loops.unreadable, about, fleet.waiting, session], () => notices(about));
  draw("fleet", [fleet.rings, about.next, about.champion], () => rings(about));
  draw("run-actions", [about.active.length, session, about.frozen], () => (may() && !about.active.length && !about.frozen
    ? el("button", { onclick: retrain, "data-key": "retrain" }, "Retrain now") : []));
  draw("runs", [runs.runs, opened, session], runList);
  drawDrift();
}

const may = () => session.roles.includes("operate");

function who() {
  if (!session.person) return el("span", { class: "sub" }, "Reading only: open the login link from the terminal to act.");
  const freeze = may() && el("button", { onclick: () => askFreeze("freeze"), "data-key": "freeze" }, "Freeze…");
  return el("div", { class: "row" }, el("span", { class: "sub" }, `Signed in as ${session.person}`), freeze);
}

const unreadable = () => loops.unreadable.map((l) => el("p", { class: "note warn" },
  el("strong", {}, `Nothing is done for ${l.name}: `), l.problem));

function notices(about) {
  const made = [...unreadable(), ...fleet.waiting.map((r) => el("p", { class: "note warn" }, el("strong", {}, "A new model waits for an answer. "),
    `${r.verdict}. `, el("a", { href: `/api/approvals/${encodeURIComponent(r.id)}` }, "See what is asked")))];
  const frozen = loops.frozen_all || about.frozen;
  if (frozen) {
    const button = may() && el("button", { onclick: () => askFreeze("unfreeze"), "data-key": "unfreeze" }, "Unfreeze…");
    made.push(el("p", { class: "note info" }, el("strong", {}, "Nothing new begins: "), `${frozen}. `, button));
  }
  return made;
}

function rings(about) {
  const top = el("p", { class: "sub" }, `${plural(about.sites, "site")}, champion `, code(about.champion), `. Waits for ${about.next}.`);
  return [top, ...fleet.rings.map((ring) => el("div", { class: "ring" },
    el("div", {}, el("h3", {}, ring.name), el("span", { class: "sub" }, plural(ring.sites.length, "site"))),
    el("div", { class: "sites" }, ring.sites.map(site))))];
}

function site(s) {
  const tone = s.silent || s.frozen ? "warn" : TONES[s.status] ?? "neutral";
  const differs = s.intent !== s.observed && s.observed;
  return el("article", { class: `site e-${tone}` },
    el("h4", {}, s.name, pill(s.intent ? s.status : "no model"), s.silent && pill("silent", "warn"), s.frozen && pill("frozen", "info")),
    s.reason && el("p", { class: "sub" }, s.reason),
    facts({
      serves: s.observed ? code(s.observed) : "not heard yet",
      intent: differs ? code(s.intent) : null,
      "last good": s.last_good && s.last_good !== s.observed ? code(s.last_good) : null,
      heard: s.heard && when(s.heard),
      [`last ${s.recent.days} days`]: `${plural(s.recent.rows, "row")}, ${plural(s.recent.labels, "label")}`,
      "since change": s.requests ? `${plural(s.requests, "request")}, ${plural(s.errors, "error")}, p95 ${s.p95_ms.toFixed(1)} ms` : null,
      cohort: s.cohort !== "default" ? s.cohort : null,
      data: s.data === "stays" ? "stays at the site" : null,
    }));
}

// --- drift

function drawDrift() {
  const checks = drift.checks;
  draw("metric", drift.metrics, () => drift.metrics.map((m) => el("option", { value: m, selected: m === drift.metric }, m)));
  $("pick").hidden = checks.length < 2;
  const at = picked == null ? checks.length - 1 : Math.min(picked, checks.length - 1);
  $("check").max = Math.max(checks.length - 1, 0);
  $("check").value = at;
  draw("timeline", [checks.map((c) => [c.at, c.evidence, c.limit]), at], () => timeline(checks, at));
  const check = checks[at];
  if (check) $("check").setAttribute("aria-valuetext", `${when(check.at)}: ${check.reason}`);
  draw("heat", [check, drift.metric], () => (check ? heat(check)
    : empty("No check yet. The first comes when a window has settled.")));
}

function timeline(checks, at) {
  if (!checks.length) return [];
  const limit = checks.at(-1).limit || 1;
  const height = (e) => (82 * Math.min(Math.log1p(Math.max(e ?? 0, 0)) / Math.log1p(10 * limit), 1)) || 1;
  const step = 1000 / checks.length;
  const bars = checks.map((c, i) => {
    const on = i === at ? "on" : "";
    const high = height(c.evidence);
    const label = `${when(c.at)}: evidence ${(c.evidence ?? 0).toPrecision(3)} of ${(c.limit ?? 0).toPrecision(3)}`;
    const x = i * step + step * 0.1;
    return el("g", { onclick: () => pick(i) },
      el("rect", { class: `${c.evidence >= c.limit ? "over" : ""} ${on}`, x, width: step * 0.8, y: 100 - high, height: high }),
      el("rect", { class: "hit", x: i * step, width: step, y: 0, height: 100 }, el("title", {}, label)));
  });
  const y = 100 - height(limit);
  const over = checks.filter((c) => c.evidence >= c.limit).length;
  const label = `Evidence of drift at ${plural(checks.length, "check")}; ${over} above the limit`;
  return [
    el("svg", { viewBox: "0 0 1000 100", preserveAspectRatio: "none", role: "img", "aria-label": label },
      bars, el("line", { x1: 0, x2: 1000, y1: y, y2: y, "vector-effect": "non-scaling-stroke" })),
    el("div", { class: "head sub" }, el("span", {}, when(checks[0].at)),
      el("span", {}, `evidence by check; dashed: the limit of ${limit.toPrecision(3)}`), el("span", {}, when(checks.at(-1).at))),
  ];
}

function pick(i) {
  picked = i >= drift.checks.length - 1 ? null : i;
  drawDrift();
}

function heat(check) {
  const named = (s, f) => check.findings.filter((x) => x.sites.includes(s) && x.features.includes(f));
  const cells = check.features.map((feature, f) => el("tr", {}, el("th", { scope: "row" }, feature),
    check.sites.map((name, s) => {
      const value = check.values[s][f];
      const found = named(name, feature);
      const level = value == null ? "none" : `h${STEPS.filter((x) => value >= x).length}`;
      const said = `${feature} at ${name}: ${drift.metric} ${value == null ? "not known, too few rows" : value}`
        + found.map((x) => `; ${x.kind}: ${x.reason}`).join("");
      return el("td", { class: `${level} ${found.length ? "named" : ""}`, title: said, tabindex: f || s ? -1 : 0,
        "data-key": `${f}/${s}`, "data-said": said }, value == null ? "–" : value.toFixed(2));
    })));
  const top = el("tr", {}, el("th", {}, ""), check.sites.map((s) => el("th", { scope: "col" }, s)));
  const legend = STEPS.map((x, i) => el("span", { class: `h${i}` }, `below ${x}`));
  return [
    el("p", {}, el("strong", {}, `${when(check.at)} `), pill(check.findings.some((x) => x.statistical) ? "drift" : "no drift",
      check.findings.some((x) => x.statistical) ? "bad" : "good"), " ", check.findings.length ? "" : `${check.reason}.`),
    check.findings.length > 0 && el("ul", {}, check.findings.map((x) => el("li", {}, pill(x.kind, x.statistical ? "bad" : "warn"), ` ${x.reason}`))),
    check.sites.length ? el("div", { class: "scroll" }, el("table", { class: "heat", "aria-label": "Distances by feature and site", role: "grid" },
      el("thead", {}, top), el("tbody", {}, cells))) : empty("No site had a new window."),
    el("p", { class: "legend" }, legend, el("span", { class: "h4" }, `${STEPS.at(-1)} and more`), el("span", { class: "none" }, "outlined: named by a finding")),
  ].filter(Boolean);
}

$("heat").addEventListener("keydown", (event) => {
  const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  const [f, s] = (event.target.dataset.key ?? "").split("/").map(Number);
  const next = move && $("heat").querySelector(`[data-key="${f + move[0]}/${s + move[1]}"]`);
  if (!next) return;
  event.preventDefault();
  event.target.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
});
for (const kind of ["mouseover", "focusin"]) {
  $("heat").addEventListener(kind, (event) => { $("cell").textContent = event.target.dataset?.said ?? ""; });
}

// --- runs

function runList() {
  if (!runs.runs.length) return empty("No run yet. One begins when drift is confirmed, or when a person asks.");
  const from = Math.min(...runs.runs.map((r) => Date.parse(r.started)));
  const span = Math.max(Date.parse(runs.now) - from, 1);
  return el("ol", { class: "runs" }, runs.runs.map((r) => {
    const open = opened?.detail.run.id === r.id;
    const bar = el("i", {});
    bar.style.left = `min(${(100 * (Date.parse(r.started) - from)) / span}%, 100% - 4px)`;
    bar.style.width = `${(100 * (Date.parse(r.ended ?? runs.now) - Date.parse(r.started))) / span}%`;
    return el("li", {},
      el("a", { class: "line", href: open ? link({}) : link({ run: r.id }), "aria-expanded": String(open), "data-key": r.id },
        el("span", {}, pill(r.phase, r.phase === "failed" ? "bad" : undefined)),
        el("span", {}, el("span", { class: "id" }, r.id), el("br"), r.because, r.next && el("span", { class: "sub" }, ` Waits for ${r.next}.`)),
        el("span", { class: "sub" }, `${when(r.started)} – ${r.ended ? when(r.ended) : "now"}`,
          el("span", { class: `track e-${TONES[r.phase]}` }, bar))),
      open && detail());
  }));
}

function detail() {
  const { detail: d, story } = opened;
  const r = d.run;
  const asked = d.approval;
  return el("div", { class: "detail" },
    facts({
      "began because": r.cause,
      scope: r.scope,
      champion: code(r.champion),
      candidate: r.candidate && code(r.candidate),
      "trained on": r.rows ? plural(r.rows, "row") : null,
      gate: r.outcome && el("span", {}, pill(r.outcome), ` ${r.verdict}`),
      answer: asked && asked.by ? `${asked.state} by ${asked.by}${asked.reason ? `: ${asked.reason}` : ""}` : asked?.state,
    }),
    el("div", { class: "row" },
      asked && el("a", { class: "button", href: asked.link, "data-key": "approval" }, "Approval page"),
      d.reports.map((href) => el("a", { class: "button", href }, "Drift report")),
      may() && d.may.includes("cancel") && el("button", { onclick: () => askRun(r.id, "cancel"), "data-key": "cancel" }, "Cancel…"),
      may() && d.may.includes("rollback") && el("button", { class: "stop", onclick: () => askRun(r.id, "rollback"), "data-key": "rollback" }, "Roll back…")),
    d.evidence && evidence(d.evidence),
    d.waves.length > 0 && waves(d.waves),
    el("h3", {}, "Story"),
    el("ol", { class: "story" }, story.sentences.map((s) => el("li", {}, el("span", { class: "sub" }, when(s.at)), el("span", {}, s.text)))));
}

function evidence(found) {
  const number = (v) => (typeof v === "number" ? v.toFixed(4) : "not known");
  const signed = (v) => (typeof v === "number" ? (v > 0 ? "+" : "") + v.toFixed(4) : "not known");
  const all = { ...found, champion: found.champion_value, challenger: found.challenger_value };
  const rows = [["all sites", all], ...Object.entries(found.sites ?? {})].map(([name, p]) => el("tr", {},
    el("th", { scope: "row" }, name), el("td", { class: "n" }, count(p.rows ?? 0)), el("td", { class: "n" }, number(p.champion)),
    el("td", { class: "n" }, number(p.challenger)),
    el("td", { class: `n ${p.gain_low > 0 ? "up" : p.gain_high < 0 ? "down" : ""}` }, `${signed(p.gain)} [${signed(p.gain_low)}, ${signed(p.gain_high)}]`)));
  const head = ["", "rows", "champion", "candidate", "gain"].map((t, i) => el("th", { scope: "col", class: i ? "n" : "" }, t));
  return el("div", {}, el("h3", {}, `Evidence: ${found.metric}`), el("div", { class: "scroll" },
    el("table", {}, el("thead", {}, el("tr", {}, head)), el("tbody", {}, rows))));
}

function waves(all) {
  return el("div", {}, el("h3", {}, "Waves"), el("ol", {}, all.map((w) => el("li", {}, el("strong", {}, w.ring),
    w.started && el("span", { class: "sub" }, ` from ${when(w.started)}${w.verified ? `, verified ${when(w.verified)}` : ""}`),
    el("ul", {}, w.sites.map((s) => el("li", {}, `${s.site} `, pill(s.status), s.reason && el("span", { class: "sub" }, ` ${s.reason}`))))))));
}

// Checks that said the same, one after the other, are one line.
function decisions(found) {
  if (!found.length) return empty("No decision yet.");
  const groups = [];
  for (const d of found) {
    const last = groups.at(-1);
    if (last?.reason === d.reason) last.since = d.at;
    else groups.push({ ...d, since: d.at });
  }
  return el("ul", { class: "log" }, groups.map((d) => {
    const [what, held] = d.reason.split("; held: ");
    const words = held ? [el("strong", {}, `held because ${held}`), el("details", {}, el("summary", {}, "what moved"), what)] : what;
    return el("li", {}, el("span", { class: "sub" }, when(d.at), d.since !== d.at && ` since ${when(d.since)}`),
      el("span", {}, pill(d.action)), el("div", {}, words));
  }));
}

function quarantine(found) {
  if (!found.total) return empty("Nothing was refused.");
  const rows = found.quarantined.map((q) => el("li", {}, el("time", { class: "sub", datetime: q.at }, when(q.at)),
    el("span", {}, q.site || "unknown"), el("span", {}, `${q.batch || "no batch"}: ${q.reason}`,
      q.rows.length > 0 && el("ul", {}, q.rows.slice(0, 5).map(([row, field, why]) => el("li", { class: "sub" }, `row ${row}, ${field}: ${why}`))))));
  const more = found.total > rows.length && el("p", { class: "sub" }, `The newest ${rows.length} of ${count(found.total)}.`);
  return [el("ul", { class: "log" }, rows), more].filter(Boolean);
}

// --- doing: always with a reason

function ask(title, text, targets, send) {
  const form = $("ask").querySelector("form");
  form.reset();
  $("ask-title").textContent = title;
  $("ask-text").textContent = text;
  $("ask-error").hidden = true;
  $("ask-where").hidden = !targets.length;
  form.target.replaceChildren(...targets.map(([value, name]) => el("option", { value }, name)));
  form.onsubmit = async (event) => {
    if (event.submitter?.value !== "yes") return;
    event.preventDefault();
    try {
      await send(form.reason.value, form.target.value);
      $("ask").close();
      await refresh();
    } catch (problem) {
      $("ask-error").textContent = problem.message;
      $("ask-error").hidden = false;
    }
  };
  $("ask").showModal();
}

async function post(path, body) {
  const headers = { "content-type": "application/json", "x-csrf-token": session.csrf };
  const answer = await fetch(`/api/${path}`, { method: "POST", headers, body: JSON.stringify(body) });
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).detail ?? `${answer.status}`);
}

const askRun = (id, what) => ask(what === "cancel" ? "Cancel this run" : "Roll this run back",
  what === "cancel" ? "It ends; sites that it has reached go back." : "Every site that it has reached goes back to its last known good.",
  [], (reason) => post(`runs/${encodeURIComponent(id)}/${what}`, { reason }));
const retrain = () => ask("Retrain now", "A run begins, whatever cooldown and budget say.", [],
  (reason) => post(`loops/${encodeURIComponent(current())}/retrain`, { reason }));
function askFreeze(what) {
  const text = what === "freeze" ? "Nothing new begins until it is lifted; the way back stays open." : "What waited goes on at once.";
  const targets = [[current(), `the loop ${current()}`], ["all", "everything"]];
  if (loops.frozen_all) targets.reverse();
  ask(what === "freeze" ? "Freeze" : "Unfreeze", text, targets, (reason, target) => post(what, { reason, target }));
}

// --- beginning

for (const id of ["metric", "days"]) $(id).addEventListener("change", () => { picked = null; refresh().catch(() => {}); });
$("check").addEventListener("input", () => pick(Number($("check").value)));
addEventListener("hashchange", () => { picked = null; refresh().catch(() => {}); });
session = await get("session").catch(() => session);
tick();
