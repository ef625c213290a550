// Drift: evidence over time, the heat of one check, and the distribution behind one cell.

import { $, brief, card, code, count, el, empty, findings, get, loopPath, number, pill, plural, state, to, when } from "./kit.js";

const STEPS = [0.02, 0.05, 0.1, 0.25];
const DAYS = [14, 30, 90, 400];

// --- sites by features

export const heat = {
  async load({ query }) {
    const days = DAYS.includes(Number(query.get("days"))) ? query.get("days") : "30";
    const metric = query.get("metric") ?? "psi";
    const drift = await get(loopPath(`/drift?days=${days}`));
    const check = drift.checks.find((c) => c.id === query.get("check")) ?? drift.checks.at(-1);
    const pages = [];
    for (let cursor = ""; check && cursor != null && pages.length < Number(query.get("pages") ?? 1); cursor = pages.at(-1).next) {
      pages.push(await get(loopPath(`/drift/${check.id}?metric=${encodeURIComponent(metric)}${cursor ? `&cursor=${cursor}` : ""}`)));
    }
    return { drift, days, metric, check, pages };
  },
  draw({ drift, days, metric, check, pages }, glance, at) {
    const go = (more) => { location.replace(to(`drift/${state.loop}`, { ...Object.fromEntries(at.query), ...more })); };
    const pick = (name, value, options) => el("label", {}, `${name} `, el("select", { "data-key": name, onchange: (e) => go({ [name.toLowerCase()]: e.target.value }) },
      options.map(([v, text]) => el("option", { value: v, selected: String(v) === value }, text))));
    const head = el("div", { class: "head" }, el("h1", {}, "Drift"), el("div", { class: "row" },
      pick("Metric", metric, drift.metrics.map((m) => [m, m])), pick("Days", days, DAYS.map((d) => [d, `${d} days`]))));
    if (!check) return [head, card("Checks", empty("No check in this time. The first comes when a window has settled."))];
    const drifts = check.findings.some((f) => f.statistical);
    return [
      head,
      card("Evidence", timeline(drift.checks, check, go)),
      el("section", { "aria-labelledby": "h-check" }, el("h2", { id: "h-check" }, when(check.at), " ", pill(drifts ? "drift" : "no drift", drifts ? "bad" : "good")),
        check.findings.length ? findings(check.findings) : el("p", {}, `${brief(check.reason)}.`),
        el("details", { "data-key": "whole" }, el("summary", {}, "The reason in full"), el("p", {}, `${check.reason}.`))),
      card("Site by feature", matrix(check, metric, pages, go)),
    ];
  },
};

function timeline(checks, shown, go) {
  const limit = shown.limit || 1;
  const height = (e) => (82 * Math.min(Math.log1p(Math.max(e ?? 0, 0)) / Math.log1p(10 * limit), 1)) || 1;
  const step = 1000 / checks.length;
  const at = checks.indexOf(shown);
  const bars = checks.map((c, i) => {
    const high = height(c.evidence);
    const label = `${when(c.at)}: evidence ${(c.evidence ?? 0).toPrecision(3)} of ${(c.limit ?? 0).toPrecision(3)}`;
    return el("g", { onclick: () => go({ check: c.id }) },
      el("rect", { class: `${c.evidence >= c.limit ? "over" : ""} ${i === at ? "on" : ""}`, x: i * step + step * 0.1, width: step * 0.8, y: 100 - high, height: high }),
      el("rect", { class: "hit", x: i * step, width: step, y: 0, height: 100 }, el("title", {}, label)));
  });
  const y = 100 - height(limit);
  const over = checks.filter((c) => c.evidence >= c.limit).length;
  const slide = el("input", { type: "range", min: 0, max: checks.length - 1, value: at, "data-key": "slide", "aria-valuetext": when(shown.at),
    onchange: (e) => go({ check: checks[e.target.value].id }) });
  return [
    el("p", { class: "sub" }, `${over ? `${over} of ${plural(checks.length, "check")} above` : `None of ${plural(checks.length, "check")} reached`} the limit of ${limit.toPrecision(3)} (dashed).`),
    el("svg", { class: "timeline", viewBox: "0 0 1000 100", preserveAspectRatio: "none", role: "img", "aria-label": `Evidence of drift at ${plural(checks.length, "check")}; ${over} above the limit` },
      bars, el("line", { x1: 0, x2: 1000, y1: y, y2: y, "vector-effect": "non-scaling-stroke" })),
    checks.length > 1 && el("label", { class: "pick" }, el("span", { class: "sub" }, "Check"), slide),
    el("div", { class: "head sub" }, el("span", {}, when(checks[0].at)), el("span", {}, when(checks.at(-1).at))),
  ];
}

const level = (value) => (value == null ? "none" : `h${STEPS.filter((x) => value >= x).length}`);

function matrix(check, metric, pages, go) {
  const [first] = pages;
  const sites = pages.flatMap((p) => p.sites);
  const values = pages.flatMap((p) => p.values);
  if (!sites.length) return empty("No site had a new window.");
  const named = (s, f) => check.findings.filter((x) => x.sites.includes(s) && x.features.includes(f));
  const cell = (name, s, feature, f) => {
    const value = values[s][f];
    const found = named(name, feature);
    const said = `${feature} at ${name}: ${metric} ${value == null ? "–, too few rows" : value.toFixed(2)}${found.map((x) => `; ${x.kind} drift`).join("")}`;
    return el("td", { class: `${level(value)} ${found.length ? "named" : ""}` }, el("a", { href: to(`drift/${state.loop}/${name}/${feature}`), tabindex: f || s ? -1 : 0,
      "data-key": `${s}/${f}`, "data-said": said, "aria-label": said, title: said }, value == null ? "–" : value.toFixed(2)));
  };
  const wide = sites.length <= 6; // few sites: a column each, so that a phone shows them
  const head = (text) => el("th", { scope: "col" }, text);
  const row = (text) => el("th", { scope: "row" }, text);
  const typical = (v) => el("td", { class: level(v) }, v == null ? "–" : v.toFixed(2));
  const body = wide
    ? first.features.map((feature, f) => el("tr", {}, row(feature), sites.map((name, s) => cell(name, s, feature, f))))
    : [el("tr", { class: "typical" }, row("median of all"), first.typical.map(typical)),
      ...sites.map((name, s) => el("tr", {}, el("th", { scope: "row" }, el("a", { href: to(`fleet/site/${name}`), tabindex: -1 }, name)),
        first.features.map((feature, f) => cell(name, s, feature, f))))];
  const grid = el("table", { class: "heat", "aria-label": "Distances by site and feature" },
    el("thead", {}, el("tr", {}, head(wide ? "feature" : "site"), (wide ? sites : first.features).map(head))), el("tbody", {}, body));
  grid.addEventListener("keydown", (event) => walk(grid, event, wide));
  for (const kind of ["mouseover", "focusin"]) grid.addEventListener(kind, (event) => { $("cell").textContent = event.target.dataset?.said ?? ""; });
  const last = pages.at(-1).next;
  return [
    el("p", { class: "sub" }, `${plural(first.total, "site")}, those that moved most first. Arrow keys walk, Enter opens the distribution.`),
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Distances" }, grid),
    el("output", { id: "cell", class: "sub", "aria-live": "polite" }),
    last != null && el("button", { onclick: () => go({ pages: pages.length + 1 }), "data-key": "more" }, `More sites (${count(first.total - sites.length)} left)`),
    el("p", { class: "legend" }, STEPS.map((x, i) => el("span", { class: `h${i}` }, `below ${x}`)), el("span", { class: "h4" }, `${STEPS.at(-1)} and more`),
      el("span", { class: "none" }, "outlined: named by a finding")),
  ];
}

function walk(grid, event, wide) {
  const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (!move || !event.target.dataset.key) return;
  const [s, f] = event.target.dataset.key.split("/").map(Number);
  const [down, right] = wide ? [move[1], move[0]] : move;
  const next = grid.querySelector(`[data-key="${s + down}/${f + right}"]`);
  if (!next) return;
  event.preventDefault();
  event.target.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

// --- one feature at one site

export const feature = {
  async load({ rest, query }) {
    const days = DAYS.includes(Number(query.get("days"))) ? query.get("days") : "30";
    const [site, name] = rest.slice(1).map(encodeURIComponent);
    return { days, of: await get(loopPath(`/sites/${site}/features/${name}?days=${days}`)) };
  },
  draw({ days, of }, glance, at) {
    const last = of.windows.length - 1;
    const chosen = Math.min(Number(at.query.get("window") ?? last), last);
    const go = (more) => { location.replace(to(`drift/${state.loop}/${of.site}/${of.feature}`, { ...Object.fromEntries(at.query), ...more })); };
    const head = el("div", { class: "head" }, el("div", {},
      el("p", { class: "sub crumbs" }, el("a", { href: to(`drift/${state.loop}`) }, "Drift"), " / ", el("a", { href: to(`fleet/site/${of.site}`) }, of.site)),
      el("h1", {}, `${of.feature}${of.unit ? ` (${of.unit})` : ""} at ${of.site}`)),
      el("label", {}, "Days ", el("select", { "data-key": "Days", onchange: (e) => go({ days: e.target.value }) },
        DAYS.map((d) => el("option", { value: d, selected: String(d) === days }, `${d} days`)))));
    const about = el("p", { class: "sub" }, "Model ", code(of.candidate), `, reference of ${plural(of.reference_rows, "row")} from this site's training time.`);
    if (last < 0) return [head, about, card("Distribution", empty("No window of this model in this time."))];
    const w = of.windows[chosen];
    return [
      head, about,
      card("Window against reference", el("p", {}, el("strong", {}, when(w.start)), ` · ${plural(w.rows, "row")} · PSI ${number(psi(of.reference, w.shares), 2)} over these bars`),
        last > 0 && el("label", { class: "pick" }, el("span", { class: "sub" }, "Window"), el("input", { type: "range", min: 0, max: last, value: chosen, "data-key": "window",
          "aria-valuetext": when(w.start), onchange: (e) => go({ window: e.target.value }) })),
        bars(of, w)),
      card("Over time", el("p", { class: "sub" }, "A column is a window, its rows are the values above in the same order; orange is more than in the reference, blue is less."), strip(of, chosen, go)),
    ];
  },
};

function psi(reference, shares) {
  const safe = (v) => Math.max(v, 0.0005);
  return reference.reduce((sum, r, i) => sum + (safe(shares[i]) - safe(r)) * Math.log(safe(shares[i]) / safe(r)), 0);
}

function bars(of, w) {
  const most = Math.max(...of.reference, ...w.shares, 0.01);
  const line = (label, r, s) => {
    const ref = el("i", { class: "ref" });
    const now = el("i", { class: "now" });
    ref.style.width = `${(100 * r) / most}%`;
    now.style.width = `${(100 * s) / most}%`;
    return el("tr", {}, el("th", { scope: "row" }, label), el("td", { class: "pair", "aria-hidden": "true" }, ref, now),
      el("td", { class: "n" }, `${(100 * s).toFixed(1)}%`), el("td", { class: "n sub" }, `${(100 * r).toFixed(1)}%`));
  };
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Shares by value" }, el("table", { class: "dist" },
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, of.kind === "category" ? "category" : "value"), el("td", { class: "sub" }, el("i", { class: "key now" }), " window ", el("i", { class: "key ref" }), " reference"),
      el("th", { scope: "col", class: "n" }, "window"), el("th", { scope: "col", class: "n" }, "reference"))),
    el("tbody", {}, of.bins.map((label, i) => line(label, of.reference[i], w.shares[i])))));
}

// Bars by windows; the colour is the difference of the shares.
function strip(of, chosen, go) {
  const wide = 1000 / of.windows.length;
  const high = 18;
  const cells = of.windows.flatMap((w, x) => w.shares.map((share, y) => {
    const d = share - of.reference[y];
    const cell = el("rect", { class: d > 0 ? "more" : "less", x: x * wide, y: y * high, width: wide - 1, height: high - 1 },
      el("title", {}, `${when(w.start)}, ${of.bins[y]}: ${(100 * share).toFixed(1)}%, reference ${(100 * of.reference[y]).toFixed(1)}%`));
    cell.style.opacity = Math.min(Math.abs(d) * 6, 1);
    cell.addEventListener("click", () => go({ window: x }));
    return cell;
  }));
  const tall = of.bins.length * high;
  const mark = el("rect", { class: "mark", x: chosen * wide, y: 0, width: wide - 1, height: tall - 1 });
  const far = of.windows.map((w) => psi(of.reference, w.shares));
  const worst = far.indexOf(Math.max(...far));
  const said = `${plural(of.windows.length, "window")}; furthest from the reference on ${when(of.windows[worst].start)}, PSI ${far[worst].toFixed(2)}`;
  return [el("svg", { class: "strip", viewBox: `0 0 1000 ${tall}`, preserveAspectRatio: "none", role: "img", "aria-label": said }, cells, mark),
    el("div", { class: "head sub" }, el("span", {}, when(of.windows[0].start)), el("span", {}, said), el("span", {}, when(of.windows.at(-1).start)))];
}
