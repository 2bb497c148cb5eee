// The panel of regions: one card each, built once and then only changed where something changed.
// Captions are text, never markup: everything is set with textContent.

const GONE_MS = 15_000; // a region that ended is on show for so long; searching finds it longer
const TRIGGERS = { new: "new", request: "asked", recovered: "found again", change: "changed", refresh: "renewed" };

function made(tag, name, text) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  return element;
}

function say(element, text) { if (element.textContent !== text) element.textContent = text; }

export class Cards {
  #cards = new Map();

  /** `on` has choose(key), describe(region) and remove(region). */
  constructor(root, regions, stage, on) {
    this.root = root;
    this.regions = regions;
    this.stage = stage;
    this.on = on;
    this.chosen = null;
    this.query = "";
  }

  /** Redraws what changed; thumbnails only when asked to. */
  draw(stream, thumbnails) {
    const shown = this.#shown(stream);
    shown.forEach((region, place) => {
      const card = this.#cards.get(region.key) ?? this.#make(region);
      this.#update(card, region, thumbnails);
      if (this.root.children[place] !== card.root) this.root.insertBefore(card.root, this.root.children[place] ?? null);
    });
    const keys = new Set(shown.map((region) => region.key));
    for (const [key, card] of this.#cards) if (!keys.has(key)) { card.root.remove(); this.#cards.delete(key); }
    return shown;
  }

  #shown(stream) {
    const words = this.query.toLowerCase().split(/\s+/).filter(Boolean);
    const holds = (region) => {
      const all = [region.rid, region.label ?? "", region.caption?.text ?? "", ...region.history.map((one) => one.text)].join(" ").toLowerCase();
      return words.every((word) => all.includes(word));
    };
    const since = performance.now() - GONE_MS;
    const isHere = (region) => region.stream === stream && (region.goneAt === null || region.goneAt > since || region.key === this.chosen);
    const here = [...this.regions.all.values()].filter((region) => (words.length ? holds(region) : isHere(region)));
    return here.sort((a, b) => (a.goneAt !== null) - (b.goneAt !== null) || (b.goneAt ?? 0) - (a.goneAt ?? 0));
  }

  #make(region) {
    const root = made("li", "card");
    root.style.setProperty("--c", region.colour);
    root.dataset.key = region.key;
    const head = made("button", "head");
    head.type = "button";
    const thumb = made("canvas", "thumb");
    thumb.width = thumb.height = 112;
    thumb.setAttribute("aria-hidden", "true");
    const text = made("span", "text");
    const meta = made("span", "meta");
    const [rid, flag, trigger, age, score] = [made("span", "rid"), made("span", "flag"), made("span"), made("span"), made("span")];
    const [badge, name] = [made("span", "badge"), made("span")];
    rid.append(badge, name);
    meta.append(rid, flag, trigger, age, score);
    const ttl = made("span", "ttl");
    ttl.append(made("i"));
    head.append(thumb, text, meta, ttl);
    head.addEventListener("click", () => this.on.choose(region.key === this.chosen ? null : region.key));
    root.append(head);
    const card = { root, head, thumb, text, badge, name, flag, trigger, age, score, bar: ttl.firstChild, more: null, told: "" };
    this.#cards.set(region.key, card);
    return card;
  }

  #update(card, region, thumbnails) {
    const worn = this.regions.worn(region);
    const isStale = worn === 1 && region.writing === null && region.state !== "gone";
    const isChosen = region.key === this.chosen;
    const flags = { stale: isStale, aging: !isStale && worn !== null && worn > 0.6, lost: region.state === "lost", gone: region.state === "gone", chosen: isChosen };
    for (const [name, is] of Object.entries(flags)) card.root.classList.toggle(name, is);
    this.#text(card.text, this.regions.text(region));
    card.text.classList.toggle("writing", Boolean(region.writing));
    say(card.badge, region.number);
    say(card.name, region.rid);
    say(card.flag, region.state === "lost" ? `lost: ${words(region.why)}` : region.state === "gone" ? "ended" : isStale ? "stale" : "");
    say(card.trigger, TRIGGERS[region.trigger] ?? region.trigger);
    const ageS = this.regions.ageS(region);
    say(card.age, ageS === null || region.state === "gone" ? "" : age(ageS));
    say(card.score, sureness(region.caption ?? {}));
    card.bar.style.transform = `scaleX(${worn === null || region.state === "gone" ? 0 : (1 - worn).toFixed(3)})`;
    card.head.setAttribute("aria-expanded", String(isChosen));
    if (thumbnails) this.stage.thumbnail(card.thumb, region);
    this.#more(card, region, isChosen);
  }

  /** Words that were searched for are marked. */
  #text(element, text) {
    const wanted = this.query.trim();
    if (element.dataset.text === text && element.dataset.query === wanted) return;
    Object.assign(element.dataset, { text, query: wanted });
    if (!wanted) { element.textContent = text; return; }
    const pattern = new RegExp(`(${wanted.split(/\s+/).map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|")})`, "gi");
    element.replaceChildren(...text.split(pattern).map((part, place) => (place % 2 ? made("mark", "", part) : part)));
  }

  #more(card, region, isChosen) {
    if (!isChosen) {
      card.more?.remove();
      card.more = null;
      return;
    }
    if (!card.more) card.more = this.#details(card, region);
    const { length } = region.history;
    const told = `${length}/${region.history[0]?.at.getTime()}/${region.history[0]?.renewed}/${region.error}/${region.state}`;
    if (card.told === told && card.more.lastChild.childElementCount) return;
    card.told = told;
    for (const button of card.more.querySelectorAll("button")) button.disabled = region.state === "gone";
    const lines = region.history.map((one) => line(one.at.toLocaleTimeString(), `${one.text}`, note(one)));
    if (region.label) lines.push(line("label", region.label, "  of whoever sent the region"));
    if (region.error) lines.unshift(line("error", region.error, ""));
    card.more.lastChild.replaceChildren(...lines);
  }

  #details(card, region) {
    const more = made("div", "more");
    const actions = made("div", "card-actions");
    const describe = made("button", "", "Describe");
    const remove = made("button", "", "Stop following");
    describe.title = "Now, in a sentence (d)";
    for (const button of [describe, remove]) button.type = "button";
    describe.addEventListener("click", () => this.on.describe(region));
    remove.addEventListener("click", () => this.on.remove(region));
    actions.append(describe, remove);
    more.append(actions, made("ol", "history"));
    card.root.append(more);
    return more;
  }

  /** Scrolls the list, never the page: on a narrow screen the picture stays where it is. */
  reveal(key) {
    const card = this.#cards.get(key)?.root;
    if (!card) return;
    const list = card.parentElement, [inner, outer] = [card, list].map((one) => one.getBoundingClientRect());
    list.scrollTop += Math.min(0, inner.top - outer.top) + Math.max(0, inner.bottom - outer.bottom);
  }
}

function line(when, text, more) {
  const item = document.createElement("li");
  item.append(made("span", "", when));
  const said = made("span");
  said.append(made("q", "", text), made("span", "", more));
  item.append(said);
  return item;
}

function note(entry) {
  const parts = [TRIGGERS[entry.trigger] ?? entry.trigger];
  if (sureness(entry)) parts.push(sureness(entry));
  if (entry.renewed) parts.push(`held ${entry.renewed}×`);
  return `  ${parts.join(" · ")}`;
}

/** How likely a caption is right, or the score of a bundle that cannot tell. */
function sureness({ confidence, unsure, score }) {
  if (typeof confidence === "number") return `${unsure ? "unsure, " : ""}${Math.round(100 * confidence)} %`;
  return typeof score === "number" ? `score ${score.toFixed(2)}` : "";
}

function words(reason) { return reason.replaceAll("_", " "); }

function age(seconds) { return seconds < 9.95 ? `${seconds.toFixed(1)} s` : seconds < 120 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`; }
