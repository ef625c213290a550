// The fleet at a glance, and one site.

import { $, ago, askFreeze, askUnfreeze, brief, card, code, count, day, empty, el, facts, get, loopPath, may, number, pill, plural, runLink, state, sub,
  table, to, when } from "./kit.js";

const CARDS = 24; // up to so many sites each has a card of its own
const ORDER = ["bad", "warn", "info", "neutral", "good"];
let by = "ring";

export const home = {
  load: async () => {
    const [log] = await Promise.all([get(loopPath("/log?limit=60"))]);
    return { log };
  },
  draw({ log }, glance, at) {
    const grid = cells(glance, at);
    return { nodes: [h1("Fleet"), verdict(glance), night(log), grid.node], ready: grid.ready, gone: grid.gone };
  },
};

const h1 = (text) => el("h1", { class: "unseen" }, text);

// --- ten seconds

function verdict(glance) {
  const about = glance.loop;
  const urgent = glance.wants.filter((w) => w.tone === "bad" || w.tone === "warn");
  const tone = urgent.some((w) => w.tone === "bad") ? "bad" : urgent.length ? "warn" : "good";
  const well = count(glance.cells.word.filter((w) => ["good", "info"].includes(glance.words[w].tone)).length);
  const head = urgent.length ? `${plural(urgent.length, "thing")} ${urgent.length === 1 ? "wants" : "want"} you` : "All is well";
  return el("section", { class: `verdict e-${tone}`, "aria-labelledby": "h-verdict" },
    el("h2", { id: "h-verdict", class: `big t-${tone}` }, head),
    el("p", {}, about.champion ? [`${well} of ${plural(about.sites, "site")} well, serving `, code(about.champion), `. Waits for ${about.next}.`]
      : `${plural(about.sites, "site")}, none with a model yet. Waits for ${about.next}.`),
    glance.wants.length > 0 && el("ul", { class: "wants" }, glance.wants.map((w) => el("li", { class: `e-${w.tone}` },
      el("a", { href: w.link, "data-key": w.what }, sentence(brief(w.what))), el("span", { class: "do" }, sentence(w.do))))),
    glance.frozen.map((f) => el("p", { class: "note warn" }, el("strong", {}, `${f.target === "all" ? "Everything" : f.target} is frozen`),
      ` by ${f.by} since ${when(f.at)}: ${f.reason}. `,
      may("operate") && el("button", { onclick: () => askUnfreeze(f.target), "data-key": `unfreeze/${f.target}` }, "Unfreeze…"))));
}

const sentence = (text) => `${text}${/[.?!]$/.test(text) ? "" : "."}`;

// --- a minute

const KINDS = { held: ["held", "neutral"], "run-began": ["retrain", "info"], maintenance: ["look at", "warn"], frozen: ["frozen", "warn"], unfrozen: ["unfrozen", "info"],
  "event-evaluated": ["judged", "info"], "approval-asked": ["question", "warn"], answered: ["answer", "info"], "event-trained": ["trained", "info"],
  "event-wave-reported": ["wave", "info"], "event-rollback-reported": ["way back", "bad"], revoked: ["revoked", "bad"], "event-job-failed": ["failed", "bad"],
  "answer-refused": ["refused", "warn"], "event-deadline-passed": ["too late", "warn"], adopted: ["adopted", "good"] };

export function happened(entry) {
  const [word, tone] = KINDS[entry.kind] ?? [entry.kind.replace(/^event-/, "").replaceAll("-", " "), "neutral"];
  const run = entry.subject.startsWith(`${state.loop}.`) ? runLink(entry.subject) : "";
  const text = brief(entry.text);
  const short = entry.kind === "held" ? held(text) : text.length > 220 ? `${text.slice(0, 200).replace(/\s\S*$/, "")} …` : text;
  return el("li", {}, el("time", { class: "sub", datetime: entry.at }, when(entry.at)), el("span", {}, pill(word, tone)),
    el("div", {}, text === short ? text : el("details", { "data-key": `e${entry.seq}` }, el("summary", {}, short), el("p", {}, text)), " ",
      run && el("a", { href: run, "data-key": `r${entry.seq}` }, entry.subject),
      entry.actor && entry.actor !== "driftloop" && sub(` by ${entry.actor}`)));
}

// A check that began nothing: why not comes first, what moved after it.
function held(text) {
  const [what, why] = text.replace(/^Held: /, "").replace(/\.$/, "").split("; held: ");
  return why ? `No retraining: ${why}. Drift was there.` : `Nothing to do: ${what}.`;
}

function night(log) {
  const since = Date.parse(log.now) - 24 * 3600e3;
  const recent = log.entries.filter((e) => Date.parse(e.at) >= since);
  const shown = (recent.length ? recent : log.entries.slice(0, 3)).slice(0, 12);
  const title = recent.length || !log.entries.length ? "The last 24 hours" : "Nothing in the last 24 hours; before that";
  return card(title, shown.length ? el("ol", { class: "log" }, shown.map(happened)) : empty("Nothing has happened yet. The first check comes when a window has settled."),
    el("p", { class: "sub" }, el("a", { href: to("audit") }, "Everything that happened"), " · ", el("a", { href: to("runs") }, "Every decision and its reason")));
}

// --- every site

function cells(glance, at) {
  const { cells: all, words } = glance;
  const word = at.query.get("word") ?? "";
  const groups = by === "ring" ? glance.rings : glance.cohorts;
  const toggle = el("div", { class: "row", role: "group", "aria-label": "Group sites by" }, ["ring", "cohort"].map((b) =>
    el("button", { "aria-pressed": String(b === by), onclick: () => { by = b; dispatchEvent(new Event("redraw")); }, "data-key": `by-${b}` }, `by ${b}`)));
  const found = el("div", { class: "found" });
  const find = el("label", { class: "find" }, el("span", { class: "unseen" }, "Find a site "),
    el("input", { type: "search", placeholder: "Find a site", "data-key": "find", oninput: (e) => look(found, all, words, e.target.value, word) }));
  const legend = el("ul", { class: "legend" }, words.map((w, i) => [w, all.word.filter((x) => x === i).length])
    .sort((a, b) => ORDER.indexOf(a[0].tone) - ORDER.indexOf(b[0].tone)).map(([w, n]) => el("li", {},
      el("a", { href: to("fleet", w.word === word ? {} : { word: w.word }), "aria-current": w.word === word && "true", "data-key": `w-${w.word}` },
        el("i", { class: `swatch s-${w.tone}` }), `${count(n)} ${w.word}`))));
  const members = groups.map(() => []);
  all.name.forEach((_, i) => members[groups.findIndex((g) => g.name === (by === "ring" ? glance.rings : glance.cohorts)[all[by][i]]?.name)]?.push(i));
  const maps = [];
  const rows = groups.map((g, n) => el("div", { class: "ring" },
    el("div", {}, el("h3", {}, g.name), sub(plural(g.sites, "site")), bar(g)),
    all.name.length <= CARDS ? el("div", { class: "sites" }, members[n].map((i) => small(all, words, i))) : canvas(maps, g, members[n], all, words)));
  look(found, all, words, "", word);
  const node = card("Sites", el("div", { class: "head" }, legend, el("div", { class: "row" }, toggle, find)), found, rows,
    el("output", { id: "cell", class: "sub", "aria-live": "polite" }));
  const redraw = () => {
    const fresh = cells(glance, at);
    node.replaceWith(fresh.node);
    fresh.ready();
    fresh.node.querySelector(`[data-key="by-${by}"]`)?.focus();
  };
  const paint = () => maps.forEach((m) => m());
  return {
    node,
    ready() {
      paint();
      addEventListener("redraw", redraw, { once: true });
      addEventListener("resize", paint);
      matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
    },
    gone() {
      removeEventListener("redraw", redraw);
      removeEventListener("resize", paint);
      matchMedia("(prefers-color-scheme: dark)").removeEventListener("change", paint);
    },
  };
}

// Sites by a part of their name, or by how they are.
function look(found, all, words, text, word) {
  const wanted = text.trim().toLowerCase();
  if (!wanted && !word) return found.replaceChildren();
  const hits = [];
  let more = 0;
  all.name.forEach((name, i) => {
    if ((wanted && !name.toLowerCase().includes(wanted)) || (word && words[all.word[i]].word !== word)) return;
    if (hits.length < 60) hits.push(i);
    else more += 1;
  });
  found.replaceChildren(el("p", { class: "sub" }, hits.length ? `${plural(hits.length + more, "site")}${word ? ` ${word}` : ""}${more ? `, the first ${hits.length}` : ""}` : "No such site."),
    el("ul", { class: "chips" }, hits.map((i) => el("li", {}, el("a", { href: to(`fleet/site/${all.name[i]}`), "data-key": `f-${all.name[i]}` },
      el("i", { class: `swatch s-${words[all.word[i]].tone}` }), all.name[i])))));
}

function bar(group) {
  const made = el("div", { class: "bar-of", "aria-hidden": "true" });
  for (const tone of ORDER) {
    if (!group.tones[tone]) continue;
    const part = el("i", { class: `s-${tone}` });
    part.style.flexGrow = group.tones[tone];
    made.append(part);
  }
  return made;
}

const small = (all, words, i) => el("a", { class: `site e-${words[all.word[i]].tone}`, href: to(`fleet/site/${all.name[i]}`), "data-key": `s-${all.name[i]}` },
  el("strong", {}, all.name[i]), pill(words[all.word[i]].word, words[all.word[i]].tone));

// A ring of many sites as one picture: a cell a site. Arrow keys walk, Enter opens.
function canvas(maps, group, members, all, words) {
  const sorted = [...members].sort((a, b) => ORDER.indexOf(words[all.word[a]].tone) - ORDER.indexOf(words[all.word[b]].tone) || a - b);
  const said = ORDER.filter((t) => group.tones[t]).map((t) => `${count(group.tones[t])} ${t}`).join(", ");
  const map = el("canvas", { class: "map", tabindex: 0, role: "application", "data-key": `m-${group.name}`,
    "aria-label": `${group.name}: ${plural(group.sites, "site")}, ${said}. Arrow keys walk through them, the worst first; Enter opens one.` });
  let here = 0;
  let across = 1;
  const size = () => (all.name.length > 800 ? 10 : 16);
  function paint() {
    const wide = map.parentElement?.clientWidth ? map.clientWidth : 0;
    if (!wide) return;
    const box = size();
    across = Math.max(Math.floor(wide / box), 1);
    const ratio = devicePixelRatio || 1;
    const high = Math.ceil(sorted.length / across) * box;
    map.width = wide * ratio;
    map.height = high * ratio;
    map.style.height = `${high}px`;
    const pen = map.getContext("2d");
    const look = getComputedStyle(document.documentElement);
    const colours = Object.fromEntries(ORDER.map((t) => [t, look.getPropertyValue(`--s-${t}`)]));
    pen.scale(ratio, ratio);
    sorted.forEach((i, n) => {
      pen.fillStyle = colours[words[all.word[i]].tone];
      pen.fillRect((n % across) * box, Math.floor(n / across) * box, box - 1.5, box - 1.5);
    });
    if (document.activeElement === map) {
      pen.strokeStyle = look.getPropertyValue("--text");
      pen.lineWidth = 2;
      pen.strokeRect((here % across) * box, Math.floor(here / across) * box, box - 1.5, box - 1.5);
    }
  }
  const at = (event) => {
    const box = size();
    const n = Math.floor(event.offsetY / box) * across + Math.min(Math.floor(event.offsetX / box), across - 1);
    return n < sorted.length ? n : -1;
  };
  const name = (n) => all.name[sorted[n]];
  const tell = (n) => { $("cell").textContent = n < 0 ? "" : `${name(n)}: ${words[all.word[sorted[n]]].word}`; };
  const open = (n) => { if (n >= 0) location.hash = to(`fleet/site/${name(n)}`); };
  map.addEventListener("mousemove", (e) => { tell(at(e)); map.title = at(e) < 0 ? "" : $("cell").textContent; });
  map.addEventListener("click", (e) => open(at(e)));
  map.addEventListener("focus", () => { tell(here); paint(); });
  map.addEventListener("blur", paint);
  map.addEventListener("keydown", (e) => {
    const move = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across, Home: -here, End: sorted.length - 1 - here }[e.key];
    if (e.key === "Enter") open(here);
    if (move == null || here + move < 0 || here + move >= sorted.length) return;
    e.preventDefault();
    here += move;
    tell(here);
    paint();
  });
  maps.push(paint);
  return el("div", {}, map);
}

// --- one site

export const site = {
  load: ({ rest }) => get(loopPath(`/sites/${encodeURIComponent(rest[1] ?? "")}`)),
  draw(d) {
    const s = d.site;
    const differs = s.observed && s.intent !== s.observed;
    const word = s.silent ? "silent" : s.frozen ? "frozen" : s.intent ? s.status : "no model";
    return [
      el("div", { class: "head" }, el("div", {}, el("p", { class: "sub crumbs" }, el("a", { href: to("fleet") }, "Fleet"), ` / ${s.ring}`),
        el("h1", {}, s.name, " ", pill(word))),
        may("operate") && el("div", { class: "row" }, s.frozen ? el("button", { onclick: () => askUnfreeze(`${d.loop}/${s.name}`), "data-key": "thaw" }, "Unfreeze…")
          : el("button", { class: "stop", onclick: () => askFreeze(s.name), "data-key": "ice" }, "Freeze this site…"))),
      s.revoked && el("p", { class: "note bad" }, el("strong", {}, "It serves what was revoked: "), s.revoked),
      s.silent && el("p", { class: "note bad" }, el("strong", {}, `Nothing heard since ${when(s.heard)}. `), "See whether the site has power, network and a running program."),
      s.frozen && el("p", { class: "note warn" }, s.frozen),
      card("What it serves", facts({
        serves: s.observed ? code(s.observed) : "not heard yet", "should serve": differs && code(s.intent),
        "last known good": s.last_good ? code(s.last_good) : "none", why: s.reason, run: s.run && el("a", { href: runLink(s.run) }, s.run),
        heard: s.heard && `${when(s.heard)}, ${ago(s.heard, d.now)}`,
        "since the last change": s.requests ? `${plural(s.requests, "request")}, ${plural(s.errors, "error")}, worst p95 ${s.p95_ms.toFixed(1)} ms` : null,
        [`last ${s.recent.days} days`]: `${plural(s.recent.rows, "row")}, ${plural(s.recent.labels, "label")}`,
        cohort: s.cohort !== "default" && s.cohort, executor: d.executor, data: s.data === "stays" && "stays at the site",
      })),
      card("When it may be changed", facts({
        now: d.blocked ? `no: ${d.blocked}` : "yes", windows: d.windows.length ? `${d.windows.join("; ")} (${d.timezone})` : `at any time (${d.timezone})`,
        next: d.blocked && d.opens && when(d.opens),
      })),
      card("What drifted at the last check", d.check ? [el("p", { class: "sub" }, `PSI from this site's own reference, ${when(d.check.at)}. Each opens its distribution.`),
        d.drift.length ? el("ul", { class: "bars" }, d.drift.slice(0, 12).map((x) => feature(d, x))) : empty("It had no new window.")] : empty("No check yet.")),
      card("What it sent", d.sent.length ? table("What it sent", ["period", ">rows", ">labels", ">errors", ">p95 ms", "model"], d.sent.map((w) => el("tr", {},
        el("th", { scope: "row", class: "nowrap" }, w.start.includes("T00:00") ? day(w.start) : when(w.start)), el("td", { class: "n" }, count(w.rows)), el("td", { class: "n" }, count(w.labels)),
        el("td", { class: "n" }, count(w.errors)), el("td", { class: "n" }, number(w.p95_ms, 2)), el("td", {}, code(w.candidate))))) : empty("Nothing was counted.")),
      card("Runs that reached it", d.runs.length ? el("ul", { class: "plain" }, d.runs.map((r) => el("li", {}, el("a", { href: runLink(r.run) }, r.run), " ", pill(r.status),
        sub(` ${when(r.at)}${r.reason ? `: ${r.reason}` : ""}`)))) : empty("None of the last ten.")),
    ];
  },
};

function feature(d, x) {
  const fill = el("i", { class: `s-${x.value >= 0.25 ? "bad" : x.value >= 0.1 ? "warn" : "info"}` });
  fill.style.width = `${Math.min(x.value ?? 0, 1) * 100}%`;
  return el("li", {}, el("a", { href: to(`drift/${d.loop}/${d.site.name}/${x.feature}`), "data-key": `d-${x.feature}` }, x.feature),
    el("span", { class: "track" }, fill), el("span", { class: "n" }, number(x.value, 2)));
}
