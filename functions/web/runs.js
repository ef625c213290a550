// Runs: every decision in time, one run with its story, what waits for an answer, and how rollouts go.

import { ask, brief, card, code, count, day, el, empty, facts, findings, get, loopPath, may, number, pill, plural, post, runButtons, runLink, signed, sub, table,
  to, when } from "./kit.js";

const detailOf = async (id) => {
  const path = `runs/${encodeURIComponent(id)}`;
  const [detail, story] = await Promise.all([get(path), get(`${path}/story`)]);
  return { detail, story };
};
const plain = (text) => `${text[0]?.toUpperCase() ?? ""}${text.slice(1)}`;
const heldBy = (reason) => reason.split("; held: ")[1] ?? "";

// --- decisions and runs, newest first

export const list = {
  async load({ query }) {
    const pages = Number(query.get("pages") ?? 1);
    const [runs, decisions] = await Promise.all([get(loopPath("/runs")), get(loopPath(`/decisions?limit=${Math.min(60 * pages, 1000)}`))]);
    return { runs, decisions, pages };
  },
  draw({ runs, decisions, pages }, glance) {
    const since = decisions.next ? decisions.decisions.at(-1).at : "";
    const began = runs.runs.filter((r) => r.started >= since).map((r) => ({ at: r.started, run: r }));
    const holds = decisions.decisions.filter((d) => d.action === "hold").map((d) => ({ at: d.at, hold: d }));
    const all = grouped([...began, ...holds].sort((a, b) => (a.at < b.at ? 1 : -1)));
    const idle = !glance.loop.active.length && !glance.loop.frozen;
    return [
      el("div", { class: "head" }, el("h1", {}, "Runs and decisions"), may("operate") && idle && el("button", { onclick: retrain, "data-key": "retrain" }, "Retrain now…")),
      runs.runs.length > 0 && card("Runs over time", gantt(runs)),
      card("Every decision and its reason", all.length ? el("ol", { class: "stream" }, all.map((one) => (one.run ? runLine(one.run) : holdLine(one))))
        : empty("No decision yet. The first check comes when a window has settled."),
      decisions.next && el("a", { class: "button", href: to("runs", { pages: pages + 1 }), "data-key": "older" }, "Older")),
    ];
  },
};

// Holds for the same cause, one after the other, are one line.
function grouped(all) {
  const made = [];
  const mark = (d) => (heldBy(d.reason) || d.reason.split(":")[0]).replace(/[\d.,]+/g, "#");
  for (const one of all) {
    const last = made.at(-1);
    if (one.hold && last?.holds && mark(last.holds[0]) === mark(one.hold)) last.holds.push(one.hold);
    else made.push(one.hold ? { holds: [one.hold] } : one);
  }
  return made;
}

function runLine(r) {
  return el("li", { class: `e-${tone(r.phase)}` }, el("time", { class: "sub", datetime: r.started }, when(r.started)),
    el("div", {}, el("a", { href: runLink(r.id), class: "strong", "data-key": r.id }, r.id), " ", pill(r.phase, tone(r.phase)),
      el("p", {}, `${plain(brief(r.because))}.`, r.next && sub(` Waits for ${r.next}.`)),
      el("details", { "data-key": `why-${r.id}` }, el("summary", {}, "Why it began"), el("p", {}, `${plain(r.cause)}.`))));
}
const tone = (phase) => ({ verified: "good", "awaiting-approval": "warn", "rolling-back": "bad", "rolled-back": "bad", failed: "bad", training: "info", evaluating: "info",
  "rolling-out": "info" })[phase] ?? "neutral";

function holdLine({ holds }) {
  const [newest, oldest] = [holds[0], holds.at(-1)];
  const why = heldBy(newest.reason);
  const span = holds.length > 1 ? `${day(oldest.at)} – ${day(newest.at)}` : when(newest.at);
  return el("li", { class: "quiet" }, el("time", { class: "sub", datetime: newest.at }, span),
    el("div", {}, el("strong", {}, holds.length > 1 ? `Held ${count(holds.length)} times` : "Held"), why ? ` although there was drift: ${why}` : `: ${brief(newest.reason)}`, ".",
      el("details", { "data-key": `hold-${newest.at}` }, el("summary", {}, holds.length > 1 ? `Each of the ${holds.length}` : "The decision in full"),
        el("ul", { class: "plain" }, holds.slice(0, 60).map((d) => el("li", {}, sub(`${when(d.at)} `), brief(d.reason)))))));
}

function gantt(runs) {
  const from = Math.min(...runs.runs.map((r) => Date.parse(r.started)));
  const until = Math.max(Date.parse(runs.now), from + 1);
  return el("ol", { class: "gantt" }, runs.runs.slice(0, 20).map((r) => {
    const bar = el("i", { class: `s-${tone(r.phase)}` });
    bar.style.left = `min(${(100 * (Date.parse(r.started) - from)) / (until - from)}%, 100% - 6px)`;
    bar.style.width = `${(100 * (Date.parse(r.ended ?? runs.now) - Date.parse(r.started))) / (until - from)}%`;
    return el("li", {}, el("a", { href: runLink(r.id), "data-key": `g-${r.id}` }, r.id), el("span", { class: "track" }, bar), pill(r.phase, tone(r.phase)));
  }));
}

const retrain = () => ask({ title: "Retrain now", text: "A run begins, whatever cooldown and budget say. Its candidate still has to pass the gates and an answer.", action: "Retrain" },
  (reason) => post(loopPath("/retrain"), { reason }));

// --- one run

export const one = {
  load: ({ rest }) => detailOf(rest[0]),
  draw({ detail: d, story }) {
    const r = d.run;
    const asked = d.approval;
    return [
      el("div", { class: "head" }, el("div", {}, el("p", { class: "sub crumbs" }, el("a", { href: to("runs") }, "Runs")), el("h1", {}, r.id, " ", pill(r.phase, tone(r.phase)))),
        el("div", { class: "row" }, asked && el("a", { class: asked.state === "open" ? "button go" : "button", href: asked.link, "data-key": "approval" }, asked.state === "open" ? "Answer…" : "What was asked"),
          d.reports.map((href) => el("a", { class: "button", href, rel: "noopener" }, "Drift report")), runButtons(r.id, d.may))),
      d.revoked && el("p", { class: "note bad" }, el("strong", {}, "Its candidate was revoked: "), d.revoked),
      el("section", { class: `verdict e-${tone(r.phase)}`, "aria-labelledby": "h-why" }, el("h2", { id: "h-why" }, `${plain(brief(r.because))}.`),
        r.next && el("p", {}, `Waits for ${r.next}.`), d.quota.map((q) => el("p", { class: "note warn" }, q)),
        facts({ scope: r.scope, champion: code(r.champion), candidate: r.candidate && code(r.candidate), "trained on": r.rows ? plural(r.rows, "row") : null,
          gate: r.outcome && el("span", {}, pill(r.outcome), ` ${r.verdict}`), answer: asked && `${asked.state}${asked.by ? ` by ${asked.by}` : ""}${asked.reason ? `: ${asked.reason}` : ""}` })),
      card("The story", story.chapters.map((c) => [el("h3", {}, c.title), el("p", {}, c.text.join(" "))]),
        el("details", { "data-key": "steps" }, el("summary", {}, "Step by step, from the audit trail"), el("ol", { class: "story" }, story.sentences.map((s) => el("li", {},
          el("time", { class: "sub", datetime: s.at }, when(s.at)), el("div", {}, brief(s.text), s.actor && s.actor !== "driftloop" && sub(` (${s.actor})`))))))),
      d.evidence && card("Evidence", evidence(d.evidence)),
      d.waves.length > 0 && card("Where it goes", waves(d)),
      d.decision && card("What moved", findings(d.decision.findings), el("details", { "data-key": "cause" }, el("summary", {}, "The decision in full"), el("p", {}, `${d.decision.reason}.`))),
      d.lineage && card("Where the candidate comes from", facts(Object.fromEntries(Object.entries(d.lineage).filter(([, v]) => ["string", "number"].includes(typeof v))
        .map(([k, v]) => [k.replaceAll("_", " "), String(v)])))),
    ];
  },
};

// --- evidence: every comparison of champion and candidate, at any depth

const compared = (v) => v && typeof v === "object" && "champion" in v && "challenger" in v && "gain" in v;
function* comparisons(name, value) {
  if (compared(value)) yield [name, value];
  else if (value && typeof value === "object" && !Array.isArray(value)) for (const [k, v] of Object.entries(value)) yield* comparisons(k, v);
}

function evidence(found) {
  const rows = [["all rows", { ...found, champion: found.champion_value, challenger: found.challenger_value }]];
  for (const [k, v] of Object.entries(found)) for (const [name, part] of comparisons(k, v)) rows.push([compared(v) ? name : `${k.replaceAll("_", " ")}: ${name}`, part]);
  const reach = Math.max(...rows.flatMap(([, p]) => [p.gain_low, p.gain_high, p.gain].filter((v) => typeof v === "number").map(Math.abs)), 0.0001);
  const line = ([name, p]) => {
    const side = p.gain_low > 0 ? "up" : p.gain_high < 0 ? "down" : "";
    const known = [p.gain_low, p.gain, p.gain_high].every((v) => typeof v === "number");
    const [a, b, c] = [p.gain_low, p.gain, p.gain_high].map((v) => 60 + (56 * v) / reach);
    return el("tr", {}, el("th", { scope: "row" }, name, el("br"), sub(plural(p.rows ?? 0, "row"))), el("td", { class: "n" }, number(p.challenger), el("br"), sub(`champion ${number(p.champion)}`)),
      el("td", { class: `n ${side}` }, signed(p.gain), el("br"), sub(known ? `${signed(p.gain_low)} to ${signed(p.gain_high)}` : "no interval")),
      el("td", { class: "wide" }, known && el("svg", { class: `gain ${side}`, viewBox: "0 0 120 16", width: 120, height: 16, "aria-hidden": "true" }, el("line", { class: "zero", x1: 60, x2: 60, y1: 0, y2: 16 }),
        el("line", { x1: a, x2: c, y1: 8, y2: 8 }), el("circle", { cx: b, cy: 8, r: 3.5 }))));
  };
  const sure = rows.slice(1).filter(([, p]) => p.gain_low > 0).length;
  const worse = rows.slice(1).filter(([, p]) => p.gain_high < 0).length;
  return [
    el("p", {}, `${found.metric}: ${number(found.challenger_value)} against ${number(found.champion_value)}, gain ${signed(found.gain)}. `,
      rows.length > 1 && `Of ${plural(rows.length - 1, "part")} it is surely better in ${sure}, surely worse in ${worse}.`),
    table("Evidence", ["where", ">candidate", `>gain, ${Math.round(100 * (found.confidence ?? 0))}% interval`, "worse | better"], rows.map(line)),
  ];
}

// --- waves

function waves(d) {
  return el("ol", { class: "waves" }, d.waves.map((w, n) => {
    const done = w.verified ? `verified ${when(w.verified)}` : w.started ? `began ${when(w.started)}` : w.start ? `expected ${when(w.start)} to ${when(w.end)}` : "not begun";
    const by = Object.entries(Object.groupBy?.(w.sites, (s) => s.status) ?? groupBy(w.sites));
    const odd = w.sites.filter((s) => s.reason || s.blocked).slice(0, 40);
    return el("li", { class: `e-${w.verified ? "good" : w.started ? "info" : "neutral"}` },
      el("div", { class: "head" }, el("strong", {}, `Wave ${n + 1}: ${w.ring}`), sub(done)),
      el("p", {}, plural(w.sites.length, "site"), ": ", by.map(([status, some]) => [pill(`${count(some.length)} ${status}`, pillTone(status)), " "]),
        w.bytes > 0 && sub(`${(w.bytes / 1e6).toFixed(1)} MB`)),
      w.held && el("p", { class: "sub" }, `Held back: ${w.held}.`),
      w.sites.length <= 40 || odd.length ? el("details", { "data-key": `wave-${d.run.id}-${n}`, open: !d.run.final && odd.length > 0 && odd.length < 12 }, el("summary", {}, "Site by site"),
        el("ul", { class: "plain" }, (w.sites.length <= 40 ? w.sites : odd).map((s) => el("li", {}, el("a", { href: to(`fleet/site/${s.site}`) }, s.site), " ", pill(s.status),
          s.blocked && el("strong", {}, ` blocked: ${s.blocked}`), s.reason && sub(` ${s.reason}`), s.at && sub(` (${when(s.at)})`))))) : "");
  }));
}
const groupBy = (sites) => sites.reduce((all, s) => { (all[s.status] ??= []).push(s); return all; }, {});
const pillTone = (status) => ({ verified: "good", restored: "good", failed: "bad", stuck: "bad", deferred: "warn", restoring: "warn", planned: "neutral", waiting: "neutral" })[status] ?? "info";

// --- approvals

export const approvals = {
  async load(at, glance) {
    const { waiting } = await glance;
    const [open, runs] = await Promise.all([Promise.all(waiting.map((r) => get(`runs/${encodeURIComponent(r.id)}`))), get(loopPath("/runs"))]);
    const answered = await Promise.all(runs.runs.filter((r) => r.verdict && r.phase !== "awaiting-approval").slice(0, 10).map((r) => get(`runs/${encodeURIComponent(r.id)}`)));
    return { open, answered: answered.filter((d) => d.approval) };
  },
  draw: ({ open, answered }) => [
    el("h1", {}, "Approvals"),
    card("Waiting for an answer", open.length ? open.map(question) : empty("Nothing waits. A candidate that passes its gates, or that they cannot decide, comes here.")),
    card("Answered", answered.length ? el("ul", { class: "plain" }, answered.map(({ run: r, approval: a }) => el("li", {}, el("a", { href: runLink(r.id) }, r.id), " ", pill(a.state),
      sub(` ${a.by ? `by ${a.by} ` : ""}${a.answered ? when(a.answered) : ""}${a.reason ? `: ${a.reason}` : ""}`)))) : empty("No answer yet.")),
  ],
};

function question({ run: r, approval: a, now, decision }) {
  if (!a) return empty(`${r.id} is about to ask.`);
  const left = Math.max((Date.parse(a.expires) - Date.parse(now)) / 3600e3, 0);
  return el("article", { class: "question e-warn" }, el("div", { class: "head" }, el("h3", {}, el("a", { href: runLink(r.id) }, r.id)), pill(a.outcome)),
    el("p", {}, `${plain(a.verdict)}.`), decision && el("p", { class: "sub" }, `Because of ${brief(decision.reason).slice(0, 220)}`),
    facts({ candidate: code(a.candidate), "may answer": [...a.approvers, ...a.groups.map((g) => `group ${g}`)].join(", ") || "nobody is on the list",
      needed: a.needed > 1 && `${a.consents.length} of ${a.needed} have approved`, expires: `${when(a.expires)}, in ${left < 48 ? `${left.toFixed(0)} hours` : `${(left / 24).toFixed(0)} days`}`,
      frozen: a.frozen }),
    el("div", { class: "row" }, el("a", { class: "button go", href: a.link, "data-key": `answer-${r.id}` }, may("approve") ? "Look, and answer" : "Look"),
      !may("approve") && sub("You may look; only approvers answer.")));
}

// --- rollouts

export const rollouts = {
  async load(at, glance) {
    const [{ loop }, runs] = await Promise.all([glance, get(loopPath("/runs"))]);
    const active = loop.active.filter((r) => ["rolling-out", "rolling-back", "awaiting-approval"].includes(r.phase)).map((r) => r.id);
    const ended = runs.runs.filter((r) => r.final && r.waves.some((w) => w.started)).slice(0, 5).map((r) => r.id);
    return Promise.all([...active, ...ended].map((id) => get(`runs/${encodeURIComponent(id)}`)));
  },
  draw(found, glance) {
    const going = found.filter((d) => !d.run.final);
    const ended = found.filter((d) => d.run.final);
    return [
      el("h1", {}, "Rollouts"),
      card("Under way", going.length ? going.map(rollout) : empty(`Nothing is being rolled out. ${plural(glance.loop.sites, "site")} serve ${glance.loop.champion.slice(0, 12) || "no model"}.`)),
      card("Before", ended.length ? ended.map(rollout) : empty("No rollout has ended yet.")),
    ];
  },
};

const rollout = (d) => el("article", { class: "rollout" }, el("div", { class: "head" }, el("h3", {}, el("a", { href: runLink(d.run.id) }, d.run.id), " ", pill(d.run.phase, tone(d.run.phase))),
  el("div", { class: "row" }, runButtons(d.run.id, d.may.filter((m) => m !== "cancel")))), el("p", {}, `${plain(brief(d.run.because))}.`, d.run.next && ` Waits for ${d.run.next}.`), waves(d));
