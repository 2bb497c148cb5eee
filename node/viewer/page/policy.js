// Prompt and policy of a stream or of one region: read from the node, changed there.

const $ = (id) => document.getElementById(id);
const EMPTY = { ttl_ms: null, min_interval_ms: null, max_interval_ms: null, triggers: null, max_new_tokens: null, style: null };

export class PolicyBox {
  #shown = "";

  /** `ask(op, args)` asks the node, `tell(text, isBad)` tells the user. */
  constructor(ask, tell) {
    this.ask = ask;
    this.tell = tell;
    this.stream = null;
    this.region = null;
    $("policy").addEventListener("toggle", () => this.#read());
    $("policy-for").addEventListener("change", () => this.#read());
    $("policy-form").addEventListener("submit", (event) => { event.preventDefault(); this.#apply(this.#patch()); });
    $("policy-reset").addEventListener("click", () => this.#apply(EMPTY));
  }

  /** The stream on show and the chosen region (or null). */
  aim(stream, region) {
    [this.stream, this.region] = [stream, region];
    const wanted = `${stream}|${region?.key ?? ""}|${region?.number ?? ""}`;
    if (wanted === this.#shown) return;
    this.#shown = wanted;
    const options = [new Option(`all of ${stream ?? "the stream"}`, "")];
    if (region) options.push(new Option(`region ${region.number} (${region.rid})`, region.rid, false, true));
    $("policy-for").replaceChildren(...options);
    this.#read();
  }

  #target() { return { stream: this.stream, rid: $("policy-for").value || null }; }

  async #read() {
    if (!$("policy").open || !this.stream) return;
    try {
      this.#fill((await this.ask("policy.set", { ...this.#target(), policy: {} })).policy);
    } catch (error) {
      this.tell(error.message, true);
    }
  }

  #fill(policy) {
    $("policy-style").value = policy.style;
    $("policy-ttl").value = policy.ttl_ms / 1000;
    $("policy-min").value = policy.min_interval_ms / 1000;
    $("policy-max").value = policy.max_interval_ms / 1000;
    $("policy-tokens").value = policy.max_new_tokens;
    for (const box of document.getElementsByName("trigger")) box.checked = policy.triggers.includes(box.value);
  }

  #patch() {
    const ms = (id) => Math.round(Number($(id).value) * 1000);
    return {
      style: $("policy-style").value,
      ttl_ms: ms("policy-ttl"),
      min_interval_ms: ms("policy-min"),
      max_interval_ms: ms("policy-max"),
      max_new_tokens: Number($("policy-tokens").value),
      triggers: [...document.getElementsByName("trigger")].filter((box) => box.checked).map((box) => box.value),
    };
  }

  async #apply({ style, ...policy }) {
    try {
      const before = (await this.ask("policy.set", { ...this.#target(), policy: {} })).policy.style;
      const { policy: now } = await this.ask("policy.set", { ...this.#target(), policy: style === null ? { ...policy, style } : policy });
      if (style !== null && style !== before) await this.ask("prompt.set", { ...this.#target(), prompt: style });
      this.#fill({ ...now, style: style ?? now.style });
      this.tell("In force now");
    } catch (error) {
      this.tell(error.message, true);
    }
  }
}
