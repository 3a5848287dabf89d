// The attempts to make a link, and the waits between them.

import type { YueError } from './errors.js';
import type { Settings } from './options.js';
import type { Reason } from './reasons.js';

/** The wait before the first retry; each further one is twice as long, up to the last. Half of it is random, so that
 * the clients of a server that restarts do not all come back at the same instant. */
const FIRST_MS = 50;
const LAST_MS = 5000;

/** A link that lasted this long was good: after its loss the waits start from the beginning. */
const GOOD_LINK_MS = 5000;

/** After this number of links on which only nonsense arrived, the waiting calls fail. */
const GARBLED_MAX = 3;

export class Retries {
  /** A link was lost and is made again, however often that fails. */
  #keep_trying = false;
  /** Attempts since the last good link. */
  #attempts = 0;
  #garbled = 0;
  /** The time when the present link was granted. */
  #up_since: number | undefined;
  /** Why there is no link: calls that time out before the next one report it. */
  trouble: string | undefined;

  readonly #settings: Settings;

  constructor(settings: Settings) {
    this.#settings = settings;
  }

  /** Counts an attempt. Returns the wait before it. */
  next_wait_ms(): number {
    const longest = Math.min(LAST_MS, FIRST_MS * 2 ** (this.#attempts - 1));
    const wait = this.#attempts === 0 ? 0 : longest * (0.5 + Math.random() / 2);
    this.#attempts += 1;
    return wait;
  }

  granted(): void {
    this.#keep_trying = false;
    this.#garbled = 0;
    this.trouble = undefined;
    this.#up_since = performance.now();
  }

  /** The next call starts from the beginning. */
  rest(): void {
    this.#keep_trying = false;
    this.#attempts = this.#garbled = 0;
    this.#up_since = undefined;
  }

  /** Whether to try again after an attempt that failed. */
  after_failure(error: YueError): boolean {
    const hopeless = error.is_a('AddressError') || (error.is_a('TLSError') && !this.#keep_trying);
    this.trouble = error.msg;
    return !hopeless && (this.#keep_trying || this.#settings.retry);
  }

  /** Whether to make another link after one that ended, where the program leaves that open. It helps against one that
   * broke, not against a refusal. */
  after_end({ kind }: Reason): boolean {
    if (!this.#settings.reconnect || kind === 'refused' || kind === 'handshake') return false;
    if (kind !== 'protocol' || this.#up_since !== undefined || this.#settings.retry) return true;
    this.#garbled += 1;
    return this.#garbled < GARBLED_MAX;
  }

  /** A link ended, and another one is made. */
  begin({ text }: Reason): void {
    if (this.#up_since !== undefined && performance.now() - this.#up_since >= GOOD_LINK_MS) this.#attempts = 0;
    this.#up_since = undefined;
    this.#attempts = Math.max(1, this.#attempts);
    this.#keep_trying = true;
    this.trouble = text;
  }
}
