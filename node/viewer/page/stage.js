// The picture: video, masks, captions beside their regions, and pointing with mouse, finger or keys.

import { label, tint } from "./rle.js";
import { rgb } from "./regions.js";

const DRAG_PX = 7;
const NARROW_PX = 560;
const GONE_PLACES = 64;

export class Stage {
  #tags = new Map();
  #from = null;
  #cross = null;
  #anchor = null;
  #labels = new Uint8Array(0);
  #keys = [];
  #lit = null;
  #pixels = null;
  #maskKey = "";

  /** `on` has point([x, y]), box([x0, y0, x1, y1]) in px of the whole frame, and choose(key). */
  constructor(root, regions, on) {
    this.root = root;
    this.regions = regions;
    this.on = on;
    this.picture = null;
    this.chosen = null;
    this.mode = "fill";
    this.places = new Map();
    this.video = root.querySelector("#video");
    this.masks = root.querySelector("#masks");
    this.layer = root.querySelector("#labels");
    this.rubber = root.querySelector("#rubber");
    this.cross = root.querySelector("#cross");
    this.#listen();
    new ResizeObserver(() => {
      root.classList.toggle("narrow", root.clientWidth < NARROW_PX);
      this.layout();
    }).observe(root);
  }

  // --- drawing ---------------------------------------------------------------------------------

  /** Shows a picture message: [u32 length][JSON][JPEG]. */
  async show(buffer) {
    const length = new DataView(buffer).getUint32(0, true);
    const picture = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
    const bitmap = await createImageBitmap(new Blob([new Uint8Array(buffer, 4 + length)], { type: "image/jpeg" }));
    this.#fit(picture);
    this.video.getContext("2d").drawImage(bitmap, 0, 0);
    bitmap.close();
    this.picture = picture;
    this.root.classList.add("has-picture");
    this.#drawMasks();
    this.layout();
    return picture;
  }

  #fit({ w, h, stream }) {
    if (this.video.width !== w || this.video.height !== h) {
      for (const canvas of [this.video, this.masks]) { canvas.width = w; canvas.height = h; }
      this.root.style.aspectRatio = `${w} / ${h}`;
      this.#labels = new Uint8Array(w * h);
      this.#pixels = null;
    }
    if (this.picture && this.picture.stream !== stream) this.places.clear();
  }

  #drawMasks() {
    const { w, h, stream, regions } = this.picture;
    const colours = [[0, 0, 0]];
    this.#keys = [null];
    this.#labels.length === w * h ? this.#labels.fill(0) : (this.#labels = new Uint8Array(w * h));
    for (const seen of regions) {
      if (!seen.mask || colours.length > 255) continue;
      const known = this.regions.all.get(`${stream}/${seen.rid}`);
      const worn = known ? this.regions.worn(known) : null;
      colours.push(rgb(worn === 1 ? "#9aa0a8" : known?.colour ?? "#cccccc"));
      this.#keys.push(this.#key(seen));
      label(this.#labels, w, h, seen.mask.counts, colours.length - 1);
    }
    const lit = Math.max(0, this.#keys.indexOf(this.#lit));
    const context = this.masks.getContext("2d");
    this.#pixels ??= context.createImageData(w, h);
    tint(this.#labels, w, h, colours, new Uint32Array(this.#pixels.data.buffer), this.mode, this.#lit === null ? 0 : lit);
    context.putImageData(this.#pixels, 0, 0);
  }

  /** How masks are drawn: "fill", "outline" or "off". */
  setMode(mode) {
    this.mode = mode;
    if (this.picture) this.#drawMasks();
  }

  /** Lights the region of this key and its words, or none (null). */
  light(key) {
    if (key === this.#lit) return;
    this.#lit = key;
    for (const [other, tag] of this.#tags) tag.classList.toggle("lit", other === key);
    if (this.picture) this.#drawMasks();
  }

  #under([x, y]) {
    const { w, h } = this.picture;
    const [column, row] = [Math.floor((x / this.root.clientWidth) * w), Math.floor((y / this.root.clientHeight) * h)];
    return this.#keys[this.#labels[row * w + column]] ?? null;
  }

  /** No picture to see, or an old one: say why. */
  setNothing(text, stale) {
    this.root.classList.toggle("stale", stale);
    this.root.querySelector("#nothing").textContent = text;
  }

  clear() {
    this.picture = null;
    this.root.classList.remove("has-picture");
    for (const canvas of [this.video, this.masks]) canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    this.layout();
  }

  /** Puts the captions beside their regions, none over another. */
  layout() {
    const seen = this.picture?.regions ?? [];
    const keys = new Set();
    const taken = [];
    const byChosen = (a, b) => (this.#key(b) === this.chosen) - (this.#key(a) === this.chosen) || a.box[1] - b.box[1];
    for (const one of [...seen].sort(byChosen)) {
      const region = this.regions.all.get(this.#key(one));
      if (!region || !one.mask) continue;
      keys.add(region.key);
      this.places.set(region.key, one.box);
      taken.push(this.#place(this.#tag(region), one.box, taken));
    }
    if (this.places.size > GONE_PLACES) for (const key of this.places.keys()) if (!keys.has(key)) this.places.delete(key);
    for (const [key, tag] of this.#tags) if (!keys.has(key)) { tag.remove(); this.#tags.delete(key); }
  }

  #key(seen) { return `${this.picture.stream}/${seen.rid}`; }

  #tag(region) {
    let tag = this.#tags.get(region.key);
    if (!tag) {
      tag = document.createElement("div");
      tag.className = "tag";
      tag.append(Object.assign(document.createElement("span"), { className: "badge" }), document.createElement("span"));
      tag.addEventListener("pointerdown", (event) => event.stopPropagation());
      tag.addEventListener("click", () => this.on.choose(region.key));
      tag.addEventListener("pointerenter", () => this.light(region.key));
      tag.addEventListener("pointermove", (event) => event.stopPropagation());
      tag.style.setProperty("--c", region.colour);
      this.#tags.set(region.key, tag);
      this.layer.append(tag);
    }
    const text = this.regions.text(region);
    const [badge, words] = tag.children;
    if (badge.textContent !== region.number) badge.textContent = region.number;
    if (words.textContent !== text) words.textContent = text;
    words.classList.toggle("writing", Boolean(region.writing));
    tag.classList.toggle("stale", this.regions.worn(region) === 1 && region.writing === null);
    tag.classList.toggle("chosen", region.key === this.chosen);
    tag.classList.toggle("lit", region.key === this.#lit);
    return tag;
  }

  #place(tag, box, taken) {
    const { clientWidth: width, clientHeight: height } = this.root;
    const [w, h] = [tag.offsetWidth, tag.offsetHeight];
    const [left, top, bottom] = [(box[0] / this.picture.width) * width, (box[1] / this.picture.height) * height, (box[3] / this.picture.height) * height];
    const x = Math.max(2, Math.min(left, width - w - 2));
    const free = (y) => y >= 2 && y + h <= height - 2 && taken.every((one) => x + w < one[0] || one[2] < x || y + h < one[1] || one[3] < y);
    let y = [top - h - 3, bottom + 3, top + 3].find(free);
    for (let at = top; y === undefined && at < height; at += 6) if (free(at)) y = at;
    for (let at = top; y === undefined && at > 0; at -= 6) if (free(at)) y = at;
    y = Math.max(2, Math.min(y ?? top, height - h - 2));
    tag.style.transform = `translate(${x.toFixed(1)}px, ${y.toFixed(1)}px)`;
    return [x, y, x + w, y + h];
  }

  /** Draws a region's part of the newest picture onto a small canvas, dimmed outside of its mask. */
  thumbnail(canvas, region) {
    const seen = this.picture?.regions.find((one) => this.#key(one) === region.key);
    if (!seen?.mask || this.picture.stream !== region.stream) return;
    const scale = this.picture.w / this.picture.width;
    const [x0, y0, x1, y1] = seen.box.map((side) => side * scale);
    const { w, h } = this.picture;
    const side = Math.min(Math.max(x1 - x0, y1 - y0, 8) * 1.3, w, h);
    const [x, y] = [Math.max(0, Math.min((x0 + x1 - side) / 2, w - side)), Math.max(0, Math.min((y0 + y1 - side) / 2, h - side))];
    const context = canvas.getContext("2d");
    context.fillStyle = "#0a0c10";
    context.fillRect(0, 0, canvas.width, canvas.height);
    for (const layer of [this.video, this.masks]) context.drawImage(layer, x, y, side, side, 0, 0, canvas.width, canvas.height);
  }

  // --- pointing --------------------------------------------------------------------------------

  #listen() {
    const root = this.root;
    root.addEventListener("pointerdown", (event) => {
      if (event.button || !this.picture) return;
      this.#from = this.#at(event);
      root.setPointerCapture(event.pointerId);
    });
    root.addEventListener("pointermove", (event) => {
      if (this.#from) this.#stretch(this.#from, this.#at(event));
      else if (this.picture && event.pointerType === "mouse") this.light(this.#under(this.#at(event)));
    });
    root.addEventListener("pointerleave", () => this.light(null));
    root.addEventListener("pointerup", (event) => this.#release(event));
    root.addEventListener("pointercancel", () => { this.#from = null; this.rubber.hidden = true; });
    root.addEventListener("keydown", (event) => this.#press(event));
    root.addEventListener("blur", () => this.#letGo());
  }

  #at(event) {
    const place = this.root.getBoundingClientRect();
    return [Math.max(0, Math.min(event.clientX - place.left, place.width - 1)), Math.max(0, Math.min(event.clientY - place.top, place.height - 1))];
  }

  #stretch([x0, y0], [x1, y1]) {
    this.rubber.hidden = Math.hypot(x1 - x0, y1 - y0) < DRAG_PX;
    Object.assign(this.rubber.style, { left: `${Math.min(x0, x1)}px`, top: `${Math.min(y0, y1)}px`, width: `${Math.abs(x1 - x0)}px`, height: `${Math.abs(y1 - y0)}px` });
  }

  #release(event) {
    const from = this.#from;
    this.#from = null;
    this.rubber.hidden = true;
    if (from && this.picture) this.#tell(from, this.#at(event));
  }

  #tell(from, to) {
    const [a, b] = [from, to].map(([x, y]) => [(x / this.root.clientWidth) * this.picture.width, (y / this.root.clientHeight) * this.picture.height]);
    const box = [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])].map(Math.round);
    const isBox = Math.hypot(to[0] - from[0], to[1] - from[1]) >= DRAG_PX && box[2] - box[0] >= 4 && box[3] - box[1] >= 4;
    if (isBox) this.on.box(box);
    else this.on.point(b.map(Math.floor));
  }

  #press(event) {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!this.picture || event.ctrlKey || event.metaKey || event.altKey) return;
    if (step) this.#move(step, event.shiftKey);
    else if (event.key === "Enter" && this.#cross) { this.#tell(this.#anchor ?? this.#cross, this.#cross); this.#letGo(); }
    else if (event.key === "Escape") this.#letGo();
    else return;
    event.preventDefault();
  }

  #move([dx, dy], isBox) {
    const { clientWidth: width, clientHeight: height } = this.root;
    const from = this.#cross ?? [width / 2, height / 2];
    if (isBox) this.#anchor ??= from;
    else this.#anchor = null;
    const by = Math.max(6, width / 60);
    this.#cross = [Math.max(0, Math.min(from[0] + dx * by, width - 1)), Math.max(0, Math.min(from[1] + dy * by, height - 1))];
    this.cross.hidden = false;
    Object.assign(this.cross.style, { left: `${this.#cross[0]}px`, top: `${this.#cross[1]}px` });
    if (this.#anchor) this.#stretch(this.#anchor, this.#cross);
    else this.rubber.hidden = true;
  }

  #letGo() {
    this.#cross = this.#anchor = null;
    this.cross.hidden = this.rubber.hidden = true;
  }
}
