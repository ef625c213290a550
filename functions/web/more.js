// What was kept, who did what, and what it costs.

import { ask, card, code, count, el, empty, facts, get, loopPath, may, number, pill, plural, post, runLink, sub, table, to, when } from "./kit.js";
import { happened } from "./fleet.js";

async function pages(path, query, list) {
  const found = [await get(loopPath(path))];
  while (found.at(-1).next && found.length < Number(query.get("pages") ?? 1)) {
    found.push(await get(loopPath(`${path}${path.includes("?") ? "&" : "?"}cursor=${encodeURIComponent(found.at(-1).next)}`)));
  }
  return { ...found.at(-1), [list]: found.flatMap((f) => f[list]), pages: found.length };
}
const older = (page, found) => found.next && el("a", { class: "button", href: to(page, { pages: found.pages + 1 }), "data-key": "older" }, "Older");

// --- quarantine

export const quarantine = {
  load: ({ query }) => pages("/quarantine", query, "quarantined"),
  draw: (found) => [
    el("h1", {}, "Quarantine"),
    card(found.total ? `${plural(found.total, "batch", "batches")} not counted, or not wholly` : "Nothing was refused", found.total
      ? el("ul", { class: "stream" }, found.quarantined.map(held))
      : empty("Every batch was counted. What cannot be read, is not signed, comes too late or conflicts would be kept here, with its bytes and the reason."), older("quarantine", found)),
  ],
};

function held(q) {
  const path = loopPath(`/quarantine/${encodeURIComponent(q.id)}`);
  return el("li", { class: "e-warn" }, el("time", { class: "sub", datetime: q.at }, when(q.at)), el("div", {},
    el("strong", {}, q.site || "unknown site"), sub(` ${q.batch || "no batch id"}`), el("p", {}, `${q.reason}.`),
    q.rows.length > 0 && el("details", { "data-key": `q-${q.id}` }, el("summary", {}, `${plural(q.rows.length, "row")} that did not count`),
      el("ul", { class: "plain" }, q.rows.slice(0, 50).map(([row, field, why]) => el("li", {}, `row ${row}, ${field}: ${why}`)))),
    may("operate") && el("div", { class: "row" }, !q.rows.length && el("button", { "data-key": `replay-${q.id}`, onclick: () => ask({ title: "Replay this batch", action: "Replay",
      text: "Its bytes go into the queue again, as if the site had sent them. If it counts, it is gone from here; if not, it is back with today's reason." },
    (reason) => post(`${path}/replay`, { reason })) }, "Replay…"), el("a", { class: "button", href: `/api/${path}`, download: `${q.batch || q.id}.bin` }, "Download its bytes"))));
}

// --- audit

export const audit = {
  async load({ query }) {
    const [log, chain] = await Promise.all([pages("/log", query, "entries"), get(loopPath("/audit?after=999999999999"))]);
    return { log, head: chain.head, hash: chain.head_hash };
  },
  draw: ({ log, head, hash }) => [
    el("h1", {}, "Audit"),
    card("The chain", facts({ entries: count(head), head: hash ? code(hash) : "none" }), el("p", { class: "sub" }, "Each entry carries the hash of the one before. ",
      el("code", {}, "driftloop audit verify"), " goes through all of them and says where one was changed, left out or cut off.")),
    card("What happened", log.entries.length ? el("ol", { class: "log" }, log.entries.map((e) => {
      const made = happened(e);
      made.append(el("span", { class: "sub seq", title: e.hash }, `#${e.seq} ${e.hash.slice(0, 8)}`));
      return made;
    })) : empty("Nothing has happened yet."), older("audit", log)),
  ],
};

// --- costs

export const costs = {
  load: () => get(loopPath("/costs")),
  draw(found) {
    const b = found.budget;
    const fill = el("i", { class: `s-${b.used >= b.allowed ? "warn" : "good"}` });
    fill.style.width = `${Math.min((100 * b.used) / b.allowed, 100)}%`;
    const next = !b.enabled ? "only by hand: retraining is switched off in loop.yaml" : [b.free, b.cooling].filter(Boolean).sort().at(-1);
    const priced = found.cloud != null || found.edge != null;
    return [
      el("h1", {}, "Budget and cost"),
      card("Retrain budget", el("p", { class: "big" }, `${b.used} of ${b.allowed} used`), el("div", { class: "track meter", role: "img", "aria-label": `${b.used} of ${b.allowed} retrainings used` }, fill),
        facts({ budget: b.period, cooldown: b.cooldown, "next may begin": next ? (next.includes("T") ? when(next) : next) : "now, once drift is confirmed" })),
      card("What training took", facts({ hours: `${number(found.hours, 2)} h, from begin to result by the loop's clock`,
        cost: found.cost == null ? null : number(found.cost, 2), "an hour": priced ? [found.cloud != null && `cloud ${found.cloud}`, found.edge != null && `edge ${found.edge}`].filter(Boolean).join(", ") : null }),
      !priced && el("p", { class: "note neutral" }, "loop.yaml names no price of an hour: ", el("code", {}, "training: {cost: {cloud: 1.2, edge: 0}}"), " makes hours into money here. What the app itself costs in a month, ",
        el("code", {}, "python tools/costs.py"), " estimates from your prices."),
      found.runs.length ? table("What training took", ["run", "phase", "where", ">hours", ">cost"], found.runs.map((r) => el("tr", {}, el("th", { scope: "row" }, el("a", { href: runLink(r.run) }, r.run)),
        el("td", {}, pill(r.phase)), el("td", {}, r.compute), el("td", { class: "n" }, r.hours == null ? "handed in" : number(r.hours, 2)), el("td", { class: "n" }, r.cost == null ? "–" : number(r.cost, 2)))))
        : empty("No run yet.")),
    ];
  },
};
