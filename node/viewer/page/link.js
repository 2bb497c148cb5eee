// One WebSocket to the viewer: it heals by itself, and says when nothing comes any more.

const SILENT_MS = 2500;
const RETRY_MS = [200, 500, 1000, 1000, 2000];

export class Link {
  #socket = null;
  #heardAt = 0;
  #tries = 0;
  #next = 1;
  #open = new Map();

  /** `on` has message(object), picture(ArrayBuffer), up() and down(). */
  constructor(on) {
    this.on = on;
    this.#connect();
    setInterval(() => this.#watch(), 250);
  }

  #connect() {
    const url = new URL("live", location.href);
    url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    url.hash = "";
    url.search = location.search;
    const socket = new WebSocket(url);
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    this.#heardAt = performance.now();
    socket.onopen = () => { this.#tries = 0; this.on.up(); };
    socket.onmessage = (event) => { if (socket === this.#socket) this.#hear(event.data); };
    socket.onclose = () => { if (socket === this.#socket) this.#lose(); };
  }

  #hear(data) {
    this.#heardAt = performance.now();
    if (typeof data !== "string") { this.on.picture(data); return; }
    const message = JSON.parse(data);
    if (message.t === "answer") this.#answer(message);
    else this.on.message(message);
  }

  #watch() {
    if (this.#socket && performance.now() - this.#heardAt > SILENT_MS) this.#lose();
  }

  #lose() {
    const socket = this.#socket;
    this.#socket = null;
    if (socket) socket.close();
    for (const { reject } of this.#open.values()) reject(new Error("the viewer is lost"));
    this.#open.clear();
    this.on.down();
    setTimeout(() => this.#connect(), RETRY_MS[Math.min(this.#tries++, RETRY_MS.length - 1)]);
  }

  say(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  /** Ask the node; resolves with its result, rejects with its error. */
  ask(op, args) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return Promise.reject(new Error("the viewer is lost"));
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#open.set(id, { resolve, reject });
      this.say({ t: "ask", id, op, args });
    });
  }

  #answer({ id, result, error }) {
    const waiting = this.#open.get(id);
    this.#open.delete(id);
    if (!waiting) return;
    if (error === undefined) waiting.resolve(result);
    else waiting.reject(new Error(error));
  }
}
