// What is known about every region: events in, plain objects out. No DOM here.

const COLOURS = ["#5aa9ff", "#ffab4d", "#3fd69a", "#ff7f91", "#c09bff", "#ffdc5c", "#38d0e0", "#ff8fdf", "#abd84f", "#ff9d7a", "#9db4ff", "#7ce8c0", "#e6b980", "#dcb6ff"];
const HISTORY = 20;
const GONE = 30;
const LATENCIES_MS = 120_000;

export function rgb(colour) {
  const value = parseInt(colour.slice(1), 16);
  return [value >> 16, (value >> 8) & 255, value & 255];
}

export class Regions {
  #offset = null;
  #clock = "mono";

  constructor() {
    this.all = new Map();
    this.latencies = [];
  }

  /** The node's clock now, in ms; ages are measured on it. */
  now() { return performance.now() + (this.#offset ?? 0); }

  /** Takes the node's clock from a message; the quickest message knows best. */
  setNow(nowNs, clock) {
    const offset = nowNs / 1e6 - performance.now();
    const far = this.#offset === null || Math.abs(offset - this.#offset) > 1000;
    this.#offset = far ? offset : Math.max(this.#offset, offset);
    if (clock) this.#clock = clock;
  }

  static key(stream, rid) { return `${stream}/${rid}`; }

  #of(event) {
    const key = Regions.key(event.stream, event.rid);
    let region = this.all.get(key);
    if (!region) {
      region = {
        key, stream: event.stream, rid: event.rid, label: null, state: "alive", why: "", colour: this.#colour(event.stream),
        caption: null, writing: null, trigger: "", history: [], error: "", goneAt: null,
      };
      this.all.set(key, region);
    }
    return region;
  }

  #colour(stream) {
    const used = new Map();
    for (const one of this.all.values()) {
      if (one.stream === stream && one.goneAt === null) used.set(one.colour, (used.get(one.colour) ?? 0) + 1);
    }
    return COLOURS.reduce((best, one) => ((used.get(one) ?? 0) < (used.get(best) ?? 0) ? one : best), COLOURS[0]);
  }

  /** Everything that lives is in `events`; what is not has gone unseen. */
  reset(events) {
    const alive = new Set(events.filter((event) => event.rid).map((event) => Regions.key(event.stream, event.rid)));
    for (const region of this.all.values()) {
      region.writing = null;
      if (!alive.has(region.key) && region.goneAt === null) this.#end(region, "not heard of any more");
    }
    for (const event of events) this.apply(event);
  }

  apply(event) {
    if (!event.rid || event.rid === "_") return;
    const known = this.all.get(Regions.key(event.stream, event.rid));
    if (event.ev === "track.end") { if (known) this.#end(known, event.reason); return; }
    if (!event.ev.startsWith("track.") && !known && event.ev !== "caption.final") return;
    const region = this.#of(event);
    if (event.ev.startsWith("track.")) this.#track(region, event);
    else this.#caption(region, event);
  }

  #track(region, event) {
    region.label = event.label ?? region.label;
    region.goneAt = null;
    region.state = event.ev === "track.lost" ? "lost" : "alive";
    region.why = event.ev === "track.lost" ? event.reason : "";
  }

  #caption(region, event) {
    if (event.ev === "caption.start") { region.writing = ""; region.trigger = event.trigger; }
    else if (event.ev === "caption.delta") region.writing = (region.writing ?? "").slice(0, event.offset) + event.text;
    else if (event.ev === "caption.final") this.#final(region, event);
    else if (event.ev === "caption.same") this.#same(region, event);
    else if (event.ev === "caption.abort" || event.ev === "caption.error") {
      region.writing = null;
      if (event.ev === "caption.error") region.error = `${event.code}: ${event.msg}`;
    }
  }

  #final(region, event) {
    region.writing = null;
    const before = region.caption;
    const capturedMs = event.clk === this.#clock ? event.captured_ns / 1e6 : this.now();
    const repeat = before && before.session_id === event.session_id && before.rev === event.rev;
    region.caption = {
      session_id: event.session_id, rev: event.rev, text: event.text, trigger: event.trigger, score: event.score, confidence: event.confidence, unsure: event.unsure, status: event.status,
      capturedMs: repeat ? Math.max(capturedMs, before.capturedMs) : capturedMs, ttlMs: event.ttl_ms,
    };
    if (repeat) return;
    region.error = "";
    region.trigger = event.trigger;
    this.#remember(region, { text: event.text, trigger: event.trigger, score: event.score, confidence: event.confidence, unsure: event.unsure });
    const ageMs = this.now() - capturedMs;
    if (event.clk === this.#clock && ageMs - event.age_at_pub_ms < 5000) this.latencies.push({ at: performance.now(), ms: event.age_at_pub_ms });
    const since = performance.now() - LATENCIES_MS;
    while (this.latencies.length && this.latencies[0].at < since) this.latencies.shift();
  }

  #same(region, event) {
    region.writing = null;
    if (!region.caption) return;
    region.caption.capturedMs = event.captured_ns / 1e6;
    region.caption.ttlMs = event.ttl_ms;
    if (region.history[0]) region.history[0].renewed = (region.history[0].renewed ?? 0) + 1;
  }

  /** A caption that was asked for on this page. */
  asked(region, result) {
    const capturedMs = result.captured_ns && this.#offset !== null ? result.captured_ns / 1e6 : this.now();
    region.caption = { ...(region.caption ?? { session_id: "", rev: 0, ttlMs: 10000 }), text: result.text, trigger: "request", score: result.score, confidence: result.confidence, unsure: result.unsure, capturedMs };
    region.trigger = "request";
    this.#remember(region, { text: result.text, trigger: "request", score: result.score, confidence: result.confidence, unsure: result.unsure });
  }

  #remember(region, entry) {
    region.history.unshift({ ...entry, at: new Date() });
    region.history.length = Math.min(region.history.length, HISTORY);
  }

  #end(region, why) {
    region.goneAt = performance.now();
    region.state = "gone";
    region.why = why;
    region.writing = null;
    if (!region.history.length) { this.all.delete(region.key); return; }
    const gone = [...this.all.values()].filter((one) => one.goneAt !== null).sort((a, b) => a.goneAt - b.goneAt);
    for (const old of gone.slice(0, Math.max(0, gone.length - GONE))) this.all.delete(old.key);
  }

  /** What is being written once there is a word of it, else what was said. */
  text(region) { return region.writing || (region.caption?.text ?? ""); }

  /** 0 fresh to 1 at the end of its validity and beyond; null without a caption. */
  worn(region) {
    if (!region.caption) return null;
    return Math.min(1, Math.max(0, this.now() - region.caption.capturedMs) / region.caption.ttlMs);
  }

  ageS(region) { return region.caption ? Math.max(0, this.now() - region.caption.capturedMs) / 1000 : null; }
}
