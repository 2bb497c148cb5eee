// Ties the parts together: messages in, questions out, one redraw per animation frame at most.

import { Cards } from "./cards.js";
import { Charts } from "./charts.js";
import { FindBox } from "./find.js";
import { Link } from "./link.js";
import { PolicyBox } from "./policy.js";
import { Regions } from "./regions.js";
import { Stage } from "./stage.js";

const $ = (id) => document.getElementById(id);
const REDRAW_MS = 100;
const THUMBS_MS = 1000;

const regions = new Regions();
const page = { stream: null, chosen: null, node: null, viewerLost: true, state: "", streams: {}, frozen: false, recording: false, waiting: null, shown: [], pictures: [] };

const stage = new Stage($("stage"), regions, {
  point: (point) => start({ point }),
  box: (box) => start({ box }),
  choose,
});
const cards = new Cards($("cards"), regions, stage, { choose, describe, remove });
const charts = new Charts(document, regions);
const link = new Link({ message: take, picture: show, up, down });
const find = new FindBox(document, stage, regions, (op, args) => link.ask(op, args), choose);
const policy = new PolicyBox((op, args) => link.ask(op, args), toast);

// --- what comes ----------------------------------------------------------------------------------

function up() {
  page.viewerLost = false;
  look(page.stream);
}

function down() {
  page.viewerLost = true;
  drawState();
}

function take(message) {
  if (message.t === "node") {
    regions.setNow(message.now_ns, message.hello.clk);
    page.node = message;
    drawState();
  } else if (message.t === "reset") {
    charts.forget();
    regions.reset(message.events);
    message.events.forEach(beat);
  } else if (message.t === "events") {
    for (const event of message.events) { regions.apply(event); beat(event); find.hear(event); }
  }
  number();
  redraw();
}

function number() {
  const used = new Set([...regions.all.values()].filter((one) => one.goneAt === null).map((one) => `${one.stream} ${one.number}`));
  for (const region of regions.all.values()) {
    if (region.number) continue;
    let n = 1;
    while (used.has(`${region.stream} ${n}`)) n++;
    region.number = String(n);
    used.add(`${region.stream} ${n}`);
  }
}

function beat(event) {
  if (event.ev !== "heartbeat") return;
  page.state = event.state;
  page.streams = event.streams;
  charts.beat(event);
  charts.draw();
  drawStreams();
  drawState();
}

async function show(buffer) {
  if (page.frozen) { page.waiting = buffer; return; }
  try {
    const picture = await stage.show(buffer);
    find.layout();
    page.pictures.push(performance.now());
    if (page.pictures.length > 30) page.pictures.shift();
    drawFacts(picture);
  } finally {
    link.say({ t: "ready" });
  }
}

// --- what is drawn -------------------------------------------------------------------------------

let redrawing = false;
function redraw() {
  if (redrawing) return;
  redrawing = true;
  setTimeout(() => requestAnimationFrame(() => { redrawing = false; draw(); }), REDRAW_MS);
}

let thumbsAt = 0;
function draw() {
  const thumbnails = performance.now() - thumbsAt > THUMBS_MS && !document.hidden;
  if (thumbnails) thumbsAt = performance.now();
  page.shown = cards.draw(page.stream, thumbnails);
  stage.layout();
  const living = page.shown.filter((region) => region.goneAt === null).length;
  put($("count"), living ? String(living) : "");
  $("empty").hidden = page.shown.length > 0;
  put($("empty"), cards.query ? "No caption has these words." : "No regions yet. Click a thing in the picture.");
  put($("found"), cards.query ? `${page.shown.length} regions found` : "");
  policy.aim(page.stream, regions.all.get(page.chosen ?? ""));
}

function put(element, text) { if (element.textContent !== text) element.textContent = text; }

function drawState() {
  const lost = page.viewerLost ? "viewer lost" : page.node?.lost !== false ? "node lost" : null;
  $("state").dataset.state = lost ? "lost" : page.state;
  put($("state-text"), lost ?? (page.state || "connecting"));
  const why = page.viewerLost ? "The viewer does not answer. This page goes on as soon as it does." :
    `${page.node?.why || "The node is silent"}. This page goes on as soon as it is back.`;
  $("banner").hidden = !lost || (page.viewerLost && !page.node);
  put($("banner"), lost ? why.charAt(0).toUpperCase() + why.slice(1) : "");
  stage.setNothing(lost ?? "waiting for a picture", Boolean(lost));
  const hello = page.node?.hello;
  put($("model"), hello?.model ? `${hello.model} · ${hello.precision}` : "");
  const pressed = page.state === "paused";
  toggle($("pause"), pressed, pressed ? "Resume" : "Pause");
  const ops = hello?.ops ?? [];
  find.setNode(hello, Boolean(lost));
  $("pause").disabled = Boolean(lost) || !ops.includes("pause");
  $("record").disabled = Boolean(lost) || !ops.includes("record.start");
  $("record").title = ops.includes("record.start") ? "Record at the node (r)" : "This node does not record on request";
  document.title = lost ? `${lost} · ureca` : "ureca";
}

function toggle(button, pressed, text) {
  button.setAttribute("aria-pressed", String(pressed));
  if (text) put(button, text);
}

function drawStreams() {
  const names = Object.keys(page.streams).sort();
  if (page.stream === null && names.length) look(names[0]);
  const list = $("streams");
  const wanted = names.length > 1 ? names : [];
  if ([...list.children].map((one) => one.textContent).join() !== wanted.join()) {
    list.replaceChildren(...wanted.map((name) => {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: name });
      button.addEventListener("click", () => look(name));
      return button;
    }));
  }
  for (const button of list.children) button.setAttribute("aria-pressed", String(button.textContent === page.stream));
}

function drawFacts(picture) {
  const [first, last] = [page.pictures[0], page.pictures.at(-1)];
  const rate = page.pictures.length > 4 ? ` · ${(((page.pictures.length - 1) * 1000) / (last - first)).toFixed(1)} pictures/s here` : "";
  put($("picture-facts"), `${picture.stream} · frame ${picture.seq} · ${picture.width} × ${picture.height}${rate}`);
}

// --- what is done --------------------------------------------------------------------------------

function look(stream) {
  if (stream === null) return;
  if (stream !== page.stream) { stage.clear(); page.pictures.length = 0; find.clear(); }
  page.stream = find.stream = stream;
  link.say({ t: "look", stream });
  drawStreams();
  redraw();
}

function choose(key) {
  page.chosen = cards.chosen = stage.chosen = key;
  const region = regions.all.get(key ?? "");
  if (region && region.stream !== page.stream) look(region.stream);
  draw();
  if (key) cards.reveal(key);
}

async function start(region) {
  const stream = page.stream;
  try {
    const { rid } = await link.ask("region.add", { stream, region });
    regions.apply({ ev: "track.update", stream, rid });
    number();
    choose(`${stream}/${rid}`);
    toast("Started: its caption is on the way");
    if (page.state === "paused") await describe(regions.all.get(page.chosen), "short");
  } catch (error) {
    toast(error.message, true);
  }
}

async function describe(region, style = "long") {
  const { stream, rid } = region;
  toast("Asked");
  try {
    regions.asked(region, await link.ask("describe", { stream, rid, style }));
    $("toast").hidden = true;
    redraw();
  } catch (error) {
    toast(error.message, true);
  }
}

async function remove({ stream, rid }) {
  try {
    await link.ask("region.remove", { stream, rid });
  } catch (error) {
    toast(error.message, true);
  }
}

async function pause() {
  try {
    page.state = (await link.ask(page.state === "paused" ? "resume" : "pause", {})).state;
    drawState();
  } catch (error) {
    toast(error.message, true);
  }
}

function freeze() {
  page.frozen = !page.frozen;
  toggle($("freeze"), page.frozen);
  if (!page.frozen && page.waiting) {
    const buffer = page.waiting;
    page.waiting = null;
    show(buffer);
  }
}

const MODES = ["fill", "outline", "off"];
function turnMasks() {
  stage.setMode(MODES[(MODES.indexOf(stage.mode) + 1) % MODES.length]);
  put($("mask-mode"), `Masks: ${stage.mode}`);
}

async function record() {
  const name = `view-${new Date().toISOString().slice(0, 19).replace(/[^0-9]/g, "")}`;
  try {
    const result = await link.ask(page.recording ? "record.stop" : "record.start", page.recording ? {} : { name });
    page.recording = !page.recording;
    toggle($("record"), page.recording);
    toast(page.recording ? `Recording to ${result.file ?? name} at the node` : `Recorded: ${result.file ?? ""}`);
  } catch (error) {
    toast(error.message, true);
  }
}

let toastTimer = 0;
function toast(text, isBad = false) {
  const element = $("toast");
  element.textContent = text;
  element.classList.toggle("bad", isBad);
  element.hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { element.hidden = true; }, isBad ? 8000 : 3000);
}

// --- buttons and keys ----------------------------------------------------------------------------

function step(by) {
  const keys = page.shown.map((region) => region.key);
  if (keys.length) choose(keys[(Math.max(keys.indexOf(page.chosen), by > 0 ? -1 : 0) + by + keys.length) % keys.length]);
}

function turn(by) {
  const names = Object.keys(page.streams).sort();
  if (names.length > 1) look(names[(names.indexOf(page.stream) + by + names.length) % names.length]);
}

const KEYS = {
  p: () => $("pause").click(),
  f: freeze,
  m: turnMasks,
  r: () => $("record").click(),
  "/": () => $("search").focus(),
  t: () => $("find-text").focus(),
  "[": () => turn(-1),
  "]": () => turn(1),
  j: () => step(1),
  k: () => step(-1),
  d: () => withChosen(describe),
  Delete: () => withChosen(remove),
  "?": () => $("keys").showModal(),
  Escape: () => { find.clear(); choose(null); },
};

function withChosen(act) {
  const region = regions.all.get(page.chosen ?? "");
  if (region && region.goneAt === null) act(region);
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, select, textarea, dialog");
  if (event.target === $("find-text") && event.key === "Escape") { $("find-text").value = ""; find.clear(); $("stage").focus(); return; }
  if (event.target === $("search") && event.key === "Escape") { $("search").value = ""; search(); $("stage").focus(); return; }
  if (typing || event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || !(event.key in KEYS)) return;
  event.preventDefault();
  KEYS[event.key]();
});

function search() {
  cards.query = $("search").value;
  redraw();
}

$("pause").addEventListener("click", pause);
$("freeze").addEventListener("click", freeze);
$("mask-mode").addEventListener("click", turnMasks);
$("record").addEventListener("click", record);
$("help").addEventListener("click", () => $("keys").showModal());
$("search").addEventListener("input", search);
setInterval(redraw, 250);
