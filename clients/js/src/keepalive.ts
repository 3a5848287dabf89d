// Notices a peer that hangs, or that vanished behind a proxy: after silence it is pinged, and if nothing at all arrives
// then, the link is lost. Any byte is a sign of life.

/** Parts of the option `keepalive`: so long is silence before a ping, and so many of them before the link is lost. */
const PARTS = 5;
const PARTS_UNTIL_LOST = 3;

export interface KeepaliveActions {
  ping(): void;
  lost(): void;
}

export class Keepalive {
  #timer: ReturnType<typeof setInterval> | undefined;
  #last_heard = 0;
  #last_tick = 0;
  #pinged_at: number | undefined;

  readonly #seconds: number | false;
  readonly #actions: KeepaliveActions;

  constructor(
    seconds: number | false,
    actions: KeepaliveActions,
  ) {
    this.#seconds = seconds;
    this.#actions = actions;
  }

  begin(): void {
    if (this.#seconds === false) return;
    const part = (this.#seconds * 1000) / PARTS;
    this.#last_tick = this.#last_heard = performance.now();
    this.#pinged_at = undefined;
    this.#timer = setInterval(() => this.#tick(part), part);
    // In Node the timer must not keep the program alive.
    (this.#timer as { unref?: () => void }).unref?.();
  }

  end(): void {
    clearInterval(this.#timer);
  }

  heard(): void {
    this.#last_heard = performance.now();
    this.#pinged_at = undefined;
  }

  #tick(part: number): void {
    const now = performance.now();
    // The page was suspended, or its tab is in the background: what arrived meanwhile is not read yet.
    if (now - this.#last_tick > 2 * part) this.#pinged_at = undefined;
    this.#last_tick = now;
    if (this.#pinged_at !== undefined && now - this.#pinged_at >= PARTS_UNTIL_LOST * part) return this.#actions.lost();
    if (this.#pinged_at === undefined && now - this.#last_heard >= part) {
      this.#pinged_at = now;
      this.#actions.ping();
    }
  }
}
