// Two small charts of the last two minutes: how old captions are, and where frames went.

const SPAN_MS = 120_000;
const DROP_COLOURS = ["#e5484d", "#f0a020", "#a06be0", "#d6409f", "#0f9e9e", "#8a8f98"];

function median(sorted, share) { return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]; }

function axis(value, unit) {
  if (!value) return "0";
  return unit && value >= 1000 ? `${+(value / 1000).toPrecision(3)} s` : `${+value.toPrecision(3)}${unit}`;
}

function nice(value) {
  const step = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 2, 3, 5, 10].map((one) => one * step).find((one) => one >= value);
}

export class Charts {
  #seconds = [];
  #last = null;

  constructor(root, regions) {
    this.root = root;
    this.regions = regions;
    this.latency = root.querySelector("#latency");
    this.frames = root.querySelector("#frames");
  }

  /** A heartbeat: the counters, of which the differences are drawn. */
  beat(event) {
    const at = performance.now();
    const last = this.#last;
    this.#last = { at, session_id: event.session_id, counters: event.counters };
    if (!last || last.session_id !== event.session_id || at - last.at < 300) return;
    const perS = (key) => ((event.counters[key] ?? 0) - (last.counters[key] ?? 0)) / ((at - last.at) / 1000);
    const drops = {};
    for (const key of Object.keys(event.counters)) {
      if (key.startsWith("drop_") && event.counters[key]) drops[key.slice(5)] = Math.max(0, perS(key));
    }
    this.#seconds.push({ at, done: Math.max(0, perS("frames_processed")), drops, totals: event.counters });
    while (this.#seconds.length && at - this.#seconds[0].at > SPAN_MS) this.#seconds.shift();
  }

  forget() { this.#last = null; }

  draw() {
    const style = getComputedStyle(document.documentElement);
    this.ink = { plot: style.getPropertyValue("--plot"), grid: style.getPropertyValue("--grid"), text: style.getPropertyValue("--muted") };
    this.#drawLatency();
    this.#drawFrames();
  }

  #paper(canvas, top, unit) {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.font = "11px system-ui, sans-serif";
    context.textBaseline = "middle";
    const plot = { context, width, height, left: 50, bottom: height - 15, top: 7 };
    plot.x = (at) => width - 4 - ((performance.now() - at) / SPAN_MS) * (width - plot.left - 4);
    plot.y = (value) => plot.bottom - (Math.min(value, top) / top) * (plot.bottom - plot.top);
    for (const share of [0, 0.5, 1]) {
      context.fillStyle = this.ink.grid;
      context.fillRect(plot.left, Math.round(plot.y(top * share)), width - plot.left, 1);
      context.fillStyle = this.ink.text;
      context.textAlign = "right";
      context.fillText(axis(top * share, unit), plot.left - 6, plot.y(top * share));
    }
    context.textAlign = "left";
    context.fillText("2 min ago", plot.left, height - 5);
    context.textAlign = "right";
    context.fillText("now", width - 2, height - 5);
    return plot;
  }

  #drawLatency() {
    const since = performance.now() - SPAN_MS;
    const seen = this.regions.latencies.filter((one) => one.at > since);
    const sorted = seen.map((one) => one.ms).sort((a, b) => a - b);
    const now = this.root.querySelector("#latency-now");
    now.textContent = sorted.length ? `median ${Math.round(median(sorted, 0.5))} ms · 95 % within ${Math.round(median(sorted, 0.95))} ms` : "no captions yet";
    this.latency.setAttribute("aria-label", `Camera to caption, last two minutes: ${now.textContent}, ${seen.length} captions`);
    const plot = this.#paper(this.latency, nice(sorted.at(-1) ?? 100), " ms");
    plot.context.fillStyle = this.ink.plot;
    for (const one of seen) {
      plot.context.beginPath();
      plot.context.arc(plot.x(one.at), plot.y(one.ms), 2, 0, 7);
      plot.context.fill();
    }
  }

  #drawFrames() {
    const names = [...new Set(this.#seconds.flatMap((one) => Object.keys(one.drops)))].sort();
    const sum = (one) => one.done + names.reduce((total, name) => total + (one.drops[name] ?? 0), 0);
    const plot = this.#paper(this.frames, nice(Math.max(5, ...this.#seconds.map(sum))), "");
    const wide = Math.max(1.5, (plot.width - plot.left) / (SPAN_MS / 1000) - 0.5);
    for (const one of this.#seconds) {
      let low = 0;
      const bar = (value, colour) => {
        plot.context.fillStyle = colour;
        plot.context.fillRect(plot.x(one.at) - wide, plot.y(low + value), wide, plot.y(low) - plot.y(low + value));
        low += value;
      };
      bar(one.done, this.ink.plot);
      names.forEach((name, place) => bar(one.drops[name] ?? 0, DROP_COLOURS[place % DROP_COLOURS.length]));
    }
    this.#legend(names);
  }

  #legend(names) {
    const newest = this.#seconds.at(-1);
    const now = this.root.querySelector("#frames-now");
    const dropped = newest ? names.reduce((total, name) => total + (newest.drops[name] ?? 0), 0) : 0;
    now.textContent = newest ? `${newest.done.toFixed(0)} processed, ${dropped.toFixed(0)} dropped` : "no figures yet";
    this.frames.setAttribute("aria-label", `Frames a second, last two minutes: ${now.textContent}`);
    const entries = [["processed", this.ink.plot, newest?.totals.frames_processed], ...names.map((name, place) => [name.replaceAll("_", " "), DROP_COLOURS[place % DROP_COLOURS.length], newest?.totals[`drop_${name}`]])];
    const list = this.root.querySelector("#drops");
    while (list.children.length < entries.length) list.append(legendItem());
    while (list.children.length > entries.length) list.lastChild.remove();
    entries.forEach(([name, colour, total], place) => {
      list.children[place].firstChild.style.setProperty("--c", colour);
      list.children[place].lastChild.textContent = `${name}${total === undefined ? "" : ` ${total.toLocaleString("en")}`}`;
    });
  }
}

function legendItem() {
  const item = document.createElement("li");
  item.append(document.createElement("i"), document.createElement("span"));
  return item;
}
