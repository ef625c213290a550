// Looks at pages in Chromium as people do, and asks axe-core what is wrong with them.
// node look.mjs SPEC.json: {"chromium", "profile", "node", "cookie": {name, value}, "pages": [{"url", "width", "dark", "picture"}]}
// Prints of each page its title, its problems, and whether it is wider than the window.
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
socket.on("message", (data) => {
  const said = JSON.parse(data);
  if (said.id) waiting.get(said.id)(said);
  else heard.get(said.method)?.();
});
const ask = (method, params = {}, sessionId) => new Promise((done, failed) => {
  const id = ++last;
  waiting.set(id, (said) => (said.error ? failed(new Error(`${method}: ${said.error.message}`)) : done(said.result)));
  socket.send(JSON.stringify({ id, method, params, sessionId }));
});

const found = [];
for (const wanted of spec.pages) {
  const { targetId } = await ask("Target.createTarget", { url: "about:blank" });
  const { sessionId } = await ask("Target.attachToTarget", { targetId, flatten: true });
  const page = (method, params) => ask(method, params, sessionId);
  const run = async (expression) => (await page("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true })).result.value;
  const height = wanted.width < 600 ? 844 : 900;
  await page("Page.enable");
  await page("Page.setBypassCSP", { enabled: true }); // for axe-core alone
  await page("Emulation.setDeviceMetricsOverride", { width: wanted.width, height, deviceScaleFactor: 1, mobile: wanted.width < 600 });
  await page("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: wanted.dark ? "dark" : "light" }] });
  if (spec.cookie) await page("Network.setCookie", { ...spec.cookie, url: wanted.url });
  const loaded = new Promise((done) => heard.set("Page.loadEventFired", done));
  await page("Page.navigate", { url: wanted.url });
  await loaded;
  if (wanted.picture) {
    const shot = await page("Page.captureScreenshot", { captureBeyondViewport: true });
    writeFileSync(wanted.picture, Buffer.from(shot.data, "base64"));
  }
  const wide = await run("document.documentElement.scrollWidth > window.innerWidth");
  const title = await run("document.title");
  await run(axe);
  const problems = await run(`axe.run().then((said) => said.violations.map((v) =>
    v.id + " (" + v.impact + "): " + v.nodes.map((n) => n.target.join(" ")).join("; ")))`);
  found.push({ title, wide, problems });
  await ask("Target.closeTarget", { targetId });
}
console.log(JSON.stringify(found));
socket.close();
browser.kill();
