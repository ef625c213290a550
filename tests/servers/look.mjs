// Looks at pages in Chromium as people do, and asks axe-core what is wrong with them.
// node look.mjs SPEC.json: {"chromium", "profile", "node", "cookie": {name, value}, "looking", "pages": [{"url", "width", "dark", "picture", "high", "before", "script"}]}
// Prints of each page its title, its problems (axe-core's, and what scripts have thrown), whether it is wider than the window, what
// moves although less motion is wanted, and what the Tab key leads to: names, and whether the focus is seen there. Not
// `looking`: its title, what scripts have thrown, what the page has become, and when.
import { spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const spec = JSON.parse(readFileSync(process.argv[2], "utf8"));
const require = createRequire(`${spec.node}/`);
const WebSocket = require("ws");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync", "--hide-scrollbars",
  "--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0", `--user-data-dir=${spec.profile}`];
const browser = spawn(spec.chromium, flags, { stdio: ["ignore", "ignore", "pipe"] });
let address;
for await (const line of createInterface({ input: browser.stderr })) {
  address = line.match(/DevTools listening on (\S+)/)?.[1];
  if (address) break;
}
const socket = new WebSocket(address, { perMessageDeflate: false });
await new Promise((done) => socket.once("open", done));

const waiting = new Map();
const heard = new Map();
let last = 0;
let thrown = [];
socket.on("message", (data) => {
  const said = JSON.parse(data);
  if (said.id) waiting.get(said.id)(said);
  else if (said.method === "Runtime.exceptionThrown") thrown.push(said.params.exceptionDetails.exception?.description ?? said.params.exceptionDetails.text);
  else heard.get(said.method)?.();
});
const ask = (method, params = {}, sessionId) => new Promise((done, failed) => {
  const id = ++last;
  waiting.set(id, (said) => (said.error ? failed(new Error(`${method}: ${said.error.message}`)) : done(said.result)));
  socket.send(JSON.stringify({ id, method, params, sessionId }));
});

// What has the focus: its name, where it is, and whether one sees that it has it.
const FOCUSED = `(() => {
  const at = document.activeElement;
  if (!at || at === document.body) return null;
  const box = at.getBoundingClientRect();
  const name = at.getAttribute("aria-label") || at.labels?.[0]?.textContent || at.textContent || at.title || "";
  const look = getComputedStyle(at);
  return { name: name.trim().slice(0, 80), key: at.dataset.key ?? "", main: Boolean(at.closest("main")), seen: look.outlineStyle !== "none" && parseFloat(look.outlineWidth) >= 2,
    shown: box.width > 0 && box.height > 0 };
})()`;
const MOVING = `[...document.querySelectorAll("*")].filter((e) => {
  const look = getComputedStyle(e);
  return look.animationName !== "none" || look.transitionDuration.split(",").some((d) => parseFloat(d) > 0);
}).length`;
// Until the page has drawn itself and nothing has changed for a while.
const SETTLED = `new Promise((done) => {
  const end = Date.now() + 8000;
  let last = "";
  const look = () => {
    const now = document.querySelector("main")?.innerHTML ?? "";
    const busy = document.querySelector("[aria-busy=true]");
    if ((!busy && now === last) || Date.now() > end) return done(true);
    last = now;
    setTimeout(look, 120);
  };
  look();
})`;

async function tabs(page, run) {
  const way = [];
  for (let n = 0; n < 80; n += 1) {
    for (const type of ["rawKeyDown", "keyUp"]) await page("Input.dispatchKeyEvent", { type, key: "Tab", code: "Tab", windowsVirtualKeyCode: 9 });
    const at = await run(FOCUSED);
    if (!at) break;
    way.push(at);
  }
  return way;
}

const found = [];
for (const wanted of spec.pages) {
  const { targetId } = await ask("Target.createTarget", { url: "about:blank" });
  const { sessionId } = await ask("Target.attachToTarget", { targetId, flatten: true });
  const page = (method, params) => ask(method, params, sessionId);
  const run = async (expression) => (await page("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true })).result.value;
  const height = wanted.width < 600 ? 844 : 900;
  thrown = [];
  await page("Page.enable");
  await page("Runtime.enable");
  await page("Page.setBypassCSP", { enabled: true }); // for axe-core alone
  await page("Emulation.setDeviceMetricsOverride", { width: wanted.width, height, deviceScaleFactor: 1, mobile: wanted.width < 600 });
  await page("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: wanted.dark ? "dark" : "light" },
    { name: "prefers-reduced-motion", value: "reduce" }] });
  if (spec.cookie?.name) await page("Network.setCookie", { ...spec.cookie, url: wanted.url });
  if (wanted.before) await page("Page.addScriptToEvaluateOnNewDocument", { source: wanted.before });
  const loaded = new Promise((done) => heard.set("Page.loadEventFired", done));
  await page("Page.navigate", { url: wanted.url });
  await loaded;
  await run(SETTLED);
  if (wanted.script) {
    await run(wanted.script);
    await run(SETTLED);
  }
  if (wanted.picture) {
    const tall = Math.min(await run("document.documentElement.scrollHeight"), wanted.high ?? 4000);
    const clip = { x: 0, y: 0, width: wanted.width, height: tall, scale: 1 };
    const shot = await page("Page.captureScreenshot", { captureBeyondViewport: true, clip,
      ...(wanted.picture.endsWith(".webp") ? { format: "webp", quality: 60 } : {}) });
    writeFileSync(wanted.picture, Buffer.from(shot.data, "base64"));
  }
  const wide = await run("document.documentElement.scrollWidth > window.innerWidth");
  const title = await run("document.title");
  if (!spec.looking) {
    const timing = await run(`({ "first paint": performance.getEntriesByName("first-contentful-paint")[0]?.startTime,
      drawn: performance.getEntriesByName("drawn")[0]?.startTime })`);
    found.push({ title, problems: thrown, timing, html: await run("document.documentElement.outerHTML") });
    await ask("Target.closeTarget", { targetId });
    continue;
  }
  await run(axe);
  const moving = await run(MOVING);
  const problems = await run(`axe.run({ rules: { "target-size": { enabled: true } } }).then((said) => said.violations.map((v) =>
    v.id + " (" + v.impact + "): " + v.nodes.map((n) => n.target.join(" ")).join("; ")))`);
  const way = wanted.tabs ? await tabs(page, run) : [];
  found.push({ title, wide, problems: [...problems, ...thrown], moving, tabs: way });
  await ask("Target.closeTarget", { targetId });
}
console.log(JSON.stringify(found));
socket.close();
browser.kill();
