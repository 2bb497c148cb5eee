// A second reader of protocol 2, written from docs/protocol.md alone and without any package.
// In: one JSON line per message, {"kind": "event"|"frame"|"request"|"reply", "hex": all parts joined}
// or {"kind", "parts": [hex, ...]}. Out: one JSON line each, {"ok": what was read} or {"error": code}.
// Numbers are kept apart from each other: {"int": "7"}, {"float": "0.5"}, bytes {"bin": hex}.
import { createInterface } from "node:readline";

class Refused extends Error {
  constructor(code, why) { super(why); this.code = code; }
}
const bad = (why, code = "BAD_SCHEMA") => { throw new Refused(code, why); };
const LIMITS = { header: 1 << 20, reply: 1 << 24, pixels: 1 << 26, text: 1 << 18, bin: 1 << 14, items: 4096, runs: 1 << 18 };
const TOPIC_KINDS = { track: "track", caption: "caption", delta: "delta", heartbeat: "heartbeat", recording: "recording", text: "text", panoptic: "panoptic" };

// --- MessagePack -----------------------------------------------------------------------------------

class Reader {
  constructor(bytes) { this.bytes = bytes; this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length); this.at = 0; }
  take(n) {
    if (this.at + n > this.bytes.length) bad("cut short");
    this.at += n;
    return this.at - n;
  }
  uint(n) { const at = this.take(n); return n === 8 ? this.view.getBigUint64(at) : BigInt(n === 4 ? this.view.getUint32(at) : n === 2 ? this.view.getUint16(at) : this.view.getUint8(at)); }
  sint(n) { const at = this.take(n); return n === 8 ? this.view.getBigInt64(at) : BigInt(n === 4 ? this.view.getInt32(at) : n === 2 ? this.view.getInt16(at) : this.view.getInt8(at)); }
  float(n) {
    const at = this.take(n);
    const value = n === 4 ? this.view.getFloat32(at) : this.view.getFloat64(at);
    return Number.isFinite(value) ? { float: value } : bad("a number is not finite");
  }
  raw(n, most) {
    if (n > most) bad("too long", "TOO_LARGE");
    const at = this.take(n);
    return this.bytes.subarray(at, at + n);
  }
  text(n) {
    try { return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(this.raw(n, LIMITS.text)); }
    catch (error) { if (error instanceof Refused) throw error; return bad("no UTF-8"); }
  }
  list(n) {
    if (n > LIMITS.items) bad("too many items", "TOO_LARGE");
    return Array.from({ length: n }, () => this.value());
  }
  map(n) {
    if (n > LIMITS.items) bad("too many keys", "TOO_LARGE");
    const found = new Map();
    for (let i = 0; i < n; i++) {
      const key = this.value();
      if (typeof key !== "string") bad("a key is no text");
      if (found.has(key)) bad("a key comes twice");
      found.set(key, this.value());
    }
    return found;
  }
  value() {
    const b = this.bytes[this.take(1)];
    if (b < 0x80) return { int: BigInt(b) };
    if (b < 0x90) return this.map(b & 15);
    if (b < 0xa0) return this.list(b & 15);
    if (b < 0xc0) return this.text(b & 31);
    if (b >= 0xe0) return { int: BigInt(b) - 256n };
    switch (b) {
      case 0xc0: return null;
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xc4: case 0xc5: case 0xc6: return { bin: Buffer.from(this.raw(Number(this.uint(1 << (b - 0xc4))), LIMITS.bin)).toString("hex") };
      case 0xca: return this.float(4);
      case 0xcb: return this.float(8);
      case 0xcc: case 0xcd: case 0xce: case 0xcf: return { int: this.uint(1 << (b - 0xcc)) };
      case 0xd0: case 0xd1: case 0xd2: case 0xd3: return { int: this.sint(1 << (b - 0xd0)) };
      case 0xd9: case 0xda: case 0xdb: return this.text(Number(this.uint(1 << (b - 0xd9))));
      case 0xdc: case 0xdd: return this.list(Number(this.uint(b === 0xdc ? 2 : 4)));
      case 0xde: case 0xdf: return this.map(Number(this.uint(b === 0xde ? 2 : 4)));
      default: return bad("an extension type, or no MessagePack");
    }
  }
}

// --- the page ----------------------------------------------------------------------------------------

const number = (value) => Number(value?.int ?? bad("no integer"));

function topicOf(bytes) {
  const text = Buffer.from(bytes).toString("latin1");
  const match = /^ureca(\d+)\/([a-z0-9_-]{1,64})\/([a-z0-9_-]{1,64})\/([a-z]+)(?:\/([a-z0-9_-]{1,64}))?\0$/.exec(text);
  if (!match) bad("no topic");
  if (match[1] !== "2") bad("another major version", "BAD_VERSION");
  return { node: match[2], stream: match[3], kind: match[4], region: match[5] ?? null };
}

function checkVersion(header) {
  const v = header.get("v");
  if (!Array.isArray(v) || v.length !== 2) bad("no version");
  if (number(v[0]) !== 2) bad("another major version", "BAD_VERSION");
}

const WORDS = {
  status: ["ok", "truncated"],
  score_kind: ["token_geomean", "none"],
  state: ["starting", "running", "paused", "draining", "stopped"],
  clk: ["mono", "utc", "tai", "ptp"],
  capture_source: ["sof", "eof", "driver", "decoder", "rtp", "receive"],
};
const REPLY_STATUSES = ["accepted", "progress", "result", "error"];
function knownWords(header, keys) {
  for (const key of keys) if (typeof header.get(key) === "string" && !WORDS[key].includes(header.get(key))) header.set(key, "unknown");
}

// COCO's code: six bits a character from "0" on, the lowest five are data, the sixth says "more";
// the last one's fifth bit is the sign; from the third run on it is the difference to the run before last.
function runsOf(mask) {
  const [height, width] = mask.get("size").map(number);
  const text = mask.get("counts");
  const runs = [];
  for (let at = 0; at < text.length;) {
    let run = 0, shift = 0, more = true;
    while (more) {
      if (at >= text.length || shift > 30) bad("a broken code");
      const bits = text.charCodeAt(at++) - 48;
      if (bits < 0 || bits > 63) bad("no character of the code");
      run += (bits & 31) * 2 ** shift;
      shift += 5;
      more = (bits & 32) !== 0;
      if (!more && bits & 16) run -= 2 ** shift;
    }
    if (runs.length > 2) run += runs[runs.length - 2];
    if (run < 0) bad("a negative run");
    if (runs.push(run) > LIMITS.runs) bad("too many runs", "TOO_LARGE");
  }
  if (runs.reduce((a, b) => a + b, 0) !== height * width) bad("the runs do not add up");
  return { height, width, pixels: runs.filter((_, i) => i % 2).reduce((a, b) => a + b, 0) };
}

function balanced(counters) {
  const get = (key) => number(counters.get(key) ?? { int: 0 });
  const dropped = [...counters].filter(([key]) => key.startsWith("drop_")).reduce((sum, [, n]) => sum + number(n), 0);
  const ended = get("caption_final") + get("caption_same") + get("caption_abort") + get("caption_error");
  const answered = get("text_found") + get("text_absent") + get("text_abort") + get("text_error");
  return get("texts_in") === answered + get("texts_in_flight") && get("frames_in") === get("frames_processed") + dropped + get("frames_in_flight")
    && get("requests_in") === ended + get("requests_in_flight");
}

function readEventHeader(header) {
  checkVersion(header);
  if (typeof header.get("ev") !== "string") bad("no kind");
  knownWords(header, ["status", "score_kind", "state"]);
  const more = {};
  if (header.get("mask")) more.mask = runsOf(header.get("mask"));
  if (header.get("ev") === "heartbeat") more.balanced = balanced(header.get("counters"));
  return more;
}

function readEvent(topic, header) {
  const more = readEventHeader(header);
  const kind = header.get("ev") === "caption.delta" ? "delta" : header.get("ev").split(".")[0];
  if (TOPIC_KINDS[kind] !== topic.kind) bad("under another kind's topic");
  if ((header.get("stream") || "_") !== topic.stream || (header.get("rid") ?? null) !== topic.region) bad("under another region's topic");
  return more;
}

function readFrame(topic, header, pixels) {
  checkVersion(header);
  knownWords(header, ["clk", "capture_source"]);
  if (topic.kind !== "frame" || header.get("src") !== topic.stream) bad("under another stream's topic");
  const [w, h] = [number(header.get("w")), number(header.get("h"))];
  const per = { rgb8: 3, bgr8: 3, mono8: 1 }[header.get("enc")];
  if (header.has("shm")) {
    if (pixels.length || !header.get("shm").get("name").startsWith("ureca-ring-")) bad("shared memory and pixels beside it");
  } else if (per) {
    const stride = header.has("stride") ? number(header.get("stride")) : w * per;
    if (stride < w * per || pixels.length !== stride * h) bad("another number of pixels");
  }
  return { masks: (header.get("regions") ?? []).filter((one) => one.has("mask")).map((one) => maskOf(one, w, h)) };
}

// A bad region costs that region, never its frame.
function maskOf(region, w, h) {
  try {
    const mask = runsOf(region.get("mask"));
    return mask.width === w && mask.height === h && mask.pixels > 0 ? mask : { refused: "another size, or empty" };
  } catch (error) { return { refused: error.message }; }
}

function readReply(header) {
  checkVersion(header);
  if (typeof header.get("status") === "string" && !REPLY_STATUSES.includes(header.get("status"))) header.set("status", "unknown");
  if (header.has("error") !== (header.get("status") === "error")) bad("an error exactly in the status error");
  const events = header.get("result")?.get("events") ?? [];
  return { events: events.map(readEventHeader).length };
}

function read({ kind, hex, parts }) {
  const joined = Buffer.from(hex ?? parts.join(""), "hex");
  const hasTopic = kind === "event" || kind === "frame";
  const end = hasTopic ? joined.indexOf(0) + 1 : 0;
  if (hasTopic && end === 0) bad("no topic");
  const topic = hasTopic ? topicOf(joined.subarray(0, end)) : null;
  const rest = joined.subarray(end);
  const most = kind === "reply" ? LIMITS.reply : LIMITS.header;
  if (parts && Buffer.from(parts[hasTopic ? 1 : 0], "hex").length > most) bad("the header is too long", "TOO_LARGE");
  const reader = new Reader(rest);
  const header = reader.value();
  if (!(header instanceof Map)) bad("the header is no map");
  const payload = rest.subarray(reader.at);
  if (payload.length > LIMITS.pixels) bad("too many bytes", "TOO_LARGE");
  if (payload.length && (kind === "event" || kind === "reply")) bad("more than the header");
  const more = kind === "event" ? readEvent(topic, header) : kind === "frame" ? readFrame(topic, header, payload)
    : kind === "reply" ? readReply(header) : checkVersion(header) ?? {};
  return { topic, header, payload: payload.length, ...more };
}

const plain = (_, value) => value instanceof Map ? { map: [...value] } : typeof value === "bigint" ? value.toString() : value;
for await (const line of createInterface({ input: process.stdin })) {
  let told;
  try { told = { ok: read(JSON.parse(line)) }; }
  catch (error) { told = { error: error.code ?? "INTERNAL", why: error.message }; }
  process.stdout.write(JSON.stringify(told, plain) + "\n");
}
