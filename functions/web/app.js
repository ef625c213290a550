// The dashboard: finds the page that the address names, asks the app for what is on it, and draws what has changed.

import { $, Problem, askFreeze, el, get, may, pill, plural, state, to, when } from "./kit.js";
import * as fleet from "./fleet.js";
import * as drift from "./drift.js";
import * as runs from "./runs.js";
import * as more from "./more.js";

const EVERY = 3000;
const PAGES = {
  fleet: { name: "Fleet", page: (site) => (site === "site" ? fleet.site : fleet.home) },
  runs: { name: "Runs", page: (id) => (id ? runs.one : runs.list) },
  approvals: { name: "Approvals", page: () => runs.approvals },
  rollouts: { name: "Rollouts", page: () => runs.rollouts },
  drift: { name: "Drift", page: (loop, site) => (site ? drift.feature : drift.heat) },
  quarantine: { name: "Quarantine", page: () => more.quarantine },
  audit: { name: "Audit", page: () => more.audit },
  costs: { name: "Costs", page: () => more.costs },
};
let drawn = { place: "", data: "" };
let turn = 0;
let loops = null;
let view = null;

// --- where we are

function place() {
  const old = new URLSearchParams(location.hash.slice(1));
  if (old.has("run")) location.replace(`#/runs/${encodeURIComponent(old.get("run"))}`); // as links were before
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [first, ...rest] = path.split("/").map((part) => { try { return decodeURIComponent(part); } catch { return part; } });
  return { first: first in PAGES ? first : "fleet", rest, query: new URLSearchParams(query ?? "") };
}

function loopOf({ first, rest, query }) {
  const wanted = { drift: rest[0], runs: rest[0]?.split(".")[0] }[first] ?? query.get("loop");
  const names = loops.loops.map((l) => l.name);
  return names.includes(wanted) ? wanted : names.includes(query.get("loop")) ? query.get("loop") : names[0] ?? "";
}

// --- the round: ask, draw, wait

async function refresh() {
  const mine = ++turn;
  const at = place();
  if (!state.session.known) state.session = { ...(await get("session")), known: true };
  if (!state.session.looks) return show(at, "", () => signIn());
  const known = loops;
  loops = known && at.first !== "fleet" && turn % 10 ? known : await get("loops");
  state.several = loops.loops.length > 1;
  state.loop = loopOf(at);
  if (!state.loop) return show(at, loops, () => nothing());
  const page = PAGES[at.first].page(...at.rest);
  const glance = get(`loops/${encodeURIComponent(state.loop)}/glance`);
  const [overview, found] = await Promise.allSettled([glance, page.load(at, glance)]);
  if (mine !== turn) return; // somebody has gone elsewhere meanwhile
  if (overview.status === "rejected") throw overview.reason;
  chrome(at, overview.value);
  if (found.status === "rejected" && found.reason.status !== 404) throw found.reason;
  if (found.status === "rejected") show(at, found.reason.message, () => missing(found.reason.message));
  else show(at, [overview.value, found.value], () => page.draw(found.value, overview.value, at));
}

async function round() {
  const began = performance.now();
  if (!document.hidden) await attempt();
  setTimeout(round, Math.max(EVERY, 10 * (performance.now() - began)));
}

async function attempt() {
  try {
    await refresh();
    $("trouble").textContent = "";
  } catch (problem) {
    if (problem.status === 401 || problem.status === 403) {
      state.session = { person: "", roles: [], csrf: "", looks: false };
      show(place(), "", () => signIn());
    } else {
      const since = new Date().toLocaleTimeString();
      if (!$("trouble").textContent) $("trouble").textContent = `No answer since ${since} (${problem.message}). Trying again.`;
    }
    if (!(problem instanceof Problem) && !(problem instanceof TypeError)) console.error(problem);
  }
}

// --- drawing

// Draw the page when there is something new on it; what had the focus, and what was open, stays so.
function show(at, data, build) {
  const main = $("main");
  const now = JSON.stringify([data, state.session]);
  const moved = drawn.place !== location.hash;
  if (!moved && drawn.data === now) return;
  const focus = main.contains(document.activeElement) && document.activeElement.dataset.key;
  const typed = focus && document.activeElement.value;
  const open = new Set([...main.querySelectorAll("details[open]")].map((d) => d.dataset.key));
  view?.gone?.();
  const made = build();
  view = made.gone ? made : null;
  main.replaceChildren(...[made.nodes ?? made].flat(Infinity).filter(Boolean));
  for (const d of main.querySelectorAll("details")) if (!moved && open.has(d.dataset.key)) d.open = true;
  const again = focus && main.querySelector(`[data-key="${CSS.escape(focus)}"]`);
  if (again) {
    if (typed != null && "value" in again) again.value = typed;
    again.focus({ preventScroll: true });
  }
  if (moved) {
    const first = !drawn.place;
    const name = [PAGES[at.first].name, ...at.rest.filter((r) => r !== "site")].join(" · ");
    document.title = `${name} · driftloop`;
    if (!first) {
      scrollTo(0, 0);
      main.focus({ preventScroll: true });
    }
  }
  main.setAttribute("aria-busy", "false");
  drawn = { place: location.hash, data: now };
  made.ready?.();
  performance.mark("drawn");
}

function chrome(at, glance) {
  $("now").textContent = `${when(state.now)} UTC`;
  $("now").setAttribute("datetime", state.now);
  const badge = { approvals: glance.waiting.length, quarantine: glance.quarantined };
  const names = [at.first, state.loop, badge, loops.loops.map((l) => l.name)];
  once("nav", names, () => Object.entries(PAGES).map(([key, { name }]) => el("a",
    { href: key === "drift" ? to(`drift/${state.loop}`) : to(key), "aria-current": key === at.first && "page", "data-key": key }, name,
    badge[key] > 0 && el("b", { class: `badge ${key === "approvals" ? "warn" : ""}` }, badge[key], el("span", { class: "unseen" }, " waiting")))));
  const bad = glance.wants.filter((w) => w.tone === "bad" || w.tone === "warn");
  const worst = bad.some((w) => w.tone === "bad") ? "bad" : "warn";
  once("verdict", [bad.length, worst], () => (bad.length ? pill(`${plural(bad.length, "thing")} to do`, worst) : pill("all well", "good")));
  once("loops", [loops.loops.map((l) => l.name), state.loop], () => (state.several ? el("label", {}, el("span", { class: "unseen" }, "Loop "),
    el("select", { onchange: (e) => { location.hash = `#/fleet?loop=${encodeURIComponent(e.target.value)}`; }, "data-key": "loop" },
      loops.loops.map((l) => el("option", { value: l.name, selected: l.name === state.loop }, l.name)))) : el("strong", {}, state.loop)));
  const site = at.first === "fleet" && at.rest[0] === "site" ? at.rest[1] : "";
  once("who", [state.session, site], () => [
    el("span", { class: "sub me" }, state.session.person || "reading only"),
    may("operate") && el("button", { class: "stop", onclick: () => askFreeze(site), "data-key": "freeze" }, "Stop…")].filter(Boolean));
}

const seen = {};
function once(id, data, build) {
  const now = JSON.stringify(data);
  if (seen[id] === now) return;
  seen[id] = now;
  const key = $(id).contains(document.activeElement) && document.activeElement.dataset.key;
  $(id).replaceChildren(...[build()].flat());
  if (key) $(id).querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
}

// --- when there is nothing to draw

const alone = (title, ...body) => el("section", { class: "alone" }, el("h1", {}, title), body);

const nothing = () => [
  ...loops.unreadable.map((l) => el("p", { class: "note bad" }, el("strong", {}, `Nothing is done for ${l.name}: `), l.problem)),
  alone("No loop yet", el("p", {}, "A loop is one model and the sites that serve it. ", el("code", {}, "driftloop new NAME --data FILE"),
    " writes its two files from a table of yours; put them into ", el("code", {}, "config/NAME"), " of the state, and this page fills itself.")),
];
const missing = (why) => alone("There is no such page", el("p", {}, `${why[0].toUpperCase()}${why.slice(1)}.`), el("p", {}, el("a", { href: to("fleet") }, "To the fleet")));
const signIn = () => alone(state.session.person ? "You may not look" : "Sign in first",
  el("p", {}, "On Azure: reload this page and sign in as somebody whom the app knows. On one machine: open the login link that ", el("code", {}, "driftloop host"),
    " prints in its terminal."));

// --- beginning

addEventListener("hashchange", attempt);
addEventListener("changed", attempt);
addEventListener("visibilitychange", () => { if (!document.hidden) attempt(); });
for (const path of ["session", "loops"]) get(path).catch(() => {}); // asked for at once, so that both are under way
round();
