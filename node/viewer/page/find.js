// The text box: asks the node, lights the answers with their probability, says "not there".

const SHOWN_MS = 12_000; // an answer is about one frame: it is not on show for ever
const STALE_FRAMES = 90; // of a thing that is not followed

export class FindBox {
  #answers = [];
  #boxes = new Map();
  #timer = 0;

  /** `ask(op, args)` asks the node, `choose(key)` chooses a region; `stage` has the picture. */
  constructor(document, stage, regions, ask, choose) {
    const $ = (id) => document.getElementById(id);
    Object.assign(this, { document, stage, regions, ask, choose });
    this.form = $("find");
    this.input = $("find-text");
    this.keep = $("find-keep");
    this.said = $("find-said");
    this.layer = $("answers");
    this.stream = null;
    this.form.addEventListener("submit", (event) => { event.preventDefault(); this.#find(); });
    this.input.addEventListener("input", () => { if (!this.input.value) this.clear(); });
  }

  /** What this node can do: without weights for texts it compares words of captions. */
  setNode(hello, isLost) {
    const canGround = hello?.find_by === "likelihood";
    this.keep.disabled = !canGround || isLost;
    this.form.querySelector("button").disabled = isLost;
    this.input.title = canGround ? "" : "This node's bundle cannot score texts: it compares words of captions";
  }

  /** Standing texts are answered by events. */
  hear(event) {
    if (event.ev === "text.found") for (const { rid } of event.regions) this.#name(`${event.stream}/${rid}`, event.text);
    if (event.stream !== this.stream || event.text !== this.waiting) return;
    if (event.ev === "text.found") {
      this.waiting = null;
      this.#show(event.text, { none: event.none, by: "likelihood", regions: event.regions.map((one) => ({ ...one, stream: event.stream, seq: event.seq })) });
    } else if (event.ev === "text.absent") this.#tell(`“${event.text}”: not there yet (${percent(event.none)} sure), looking on`, true);
  }

  /** The regions of an answer are called by the text. */
  #name(key, text) {
    const region = this.regions.all.get(key);
    if (region) region.label = text;
  }

  async #find() {
    const text = this.input.value.trim();
    if (!text || this.stream === null) return;
    this.clear();
    this.#tell("Looking…");
    try {
      if (this.keep.checked && !this.keep.disabled) {
        this.waiting = text;
        await this.ask("region.add", { stream: this.stream, text, standing: true });
        if (this.waiting === text) this.#tell(`Looking for “${text}” until it is found`);
      } else this.#show(text, await this.ask("find", { stream: this.stream, text }));
    } catch (error) {
      this.#tell(error.message, true);
    }
  }

  #show(text, { by, none, regions }) {
    const isWords = by === "caption_words";
    if (!regions.length) {
      this.#tell(isWords ? `No caption has words of “${text}”` : `“${text}” is not there (${percent(none)} sure)`, true);
      return;
    }
    const sure = (one) => percent(isWords ? one.score : one.probability);
    const named = regions.map((one) => `${one.rid ?? "a thing"} ${sure(one)}`).join(", ");
    this.#tell(isWords ? `Captions with these words: ${named}` : `Found: ${named}`);
    this.#answers = regions.map((one) => ({ ...one, sure: sure(one) }));
    const first = regions.find((one) => one.rid);
    if (first) this.choose(`${first.stream}/${first.rid}`);
    this.layout();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#hide(), SHOWN_MS);
  }

  #tell(text, isNone = false) {
    this.said.textContent = text;
    this.said.dataset.none = String(isNone);
  }

  #hide() {
    this.#answers = [];
    this.layout();
  }

  /** Let go of the answer. */
  clear() {
    this.waiting = null;
    this.#tell("");
    this.#hide();
  }

  /** Puts a frame around each answer: where its region is now, or where the thing was. */
  layout() {
    const picture = this.stage.picture;
    const shown = picture ? this.#answers.filter((one) => one.stream === picture.stream && this.#box(one, picture)) : [];
    this.stage.root.classList.toggle("asked", shown.length > 0);
    const keys = new Set();
    for (const [place, one] of shown.entries()) {
      const key = one.rid ?? `thing ${place}`;
      keys.add(key);
      this.#draw(key, this.#box(one, picture), one.sure, picture);
    }
    for (const [key, element] of this.#boxes) if (!keys.has(key)) { element.remove(); this.#boxes.delete(key); }
  }

  #box(one, picture) {
    if (one.rid) return picture.regions.find((seen) => seen.rid === one.rid)?.box;
    return picture.seq - one.seq < STALE_FRAMES ? one.box : null;
  }

  #draw(key, [x0, y0, x1, y1], sure, { width, height }) {
    let element = this.#boxes.get(key);
    if (!element) {
      element = this.document.createElement("div");
      element.className = "answer";
      element.append(this.document.createElement("span"));
      this.#boxes.set(key, element);
      this.layer.append(element);
    }
    element.firstChild.textContent = sure;
    element.classList.toggle("low", y0 / height < 0.08);
    const share = (part, whole) => `${((part / whole) * 100).toFixed(2)}%`;
    Object.assign(element.style, { left: share(x0, width), top: share(y0, height), width: share(x1 - x0, width), height: share(y1 - y0, height) });
  }
}

function percent(share) { return `${Math.round(share * 100)} %`; }
