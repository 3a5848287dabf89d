// What is written to a link. Messages that are ready together leave together.

import type { Link } from './transport.js';

/** The bytes of messages that leave together. */
const BATCH = 16_384;

type Bytes = Uint8Array<ArrayBuffer>;

export class Output {
  #parts: Bytes[] = [];
  #length = 0;
  readonly #link: Link;
  readonly #before_flush: () => void;

  /** `before_flush` may write more. */
  constructor(link: Link, before_flush: () => void) {
    this.#link = link;
    this.#before_flush = before_flush;
  }

  /** Bytes that wait to leave. */
  get queued(): number {
    return this.#length + this.#link.buffered();
  }

  /** Writes a message, in pieces. */
  write(...parts: Bytes[]): void {
    const bytes = parts.reduce((sum, part) => sum + part.length, 0);
    if (this.#length + bytes > BATCH) this.#send();
    if (this.#length === 0) queueMicrotask(() => this.flush());
    this.#parts.push(...parts);
    this.#length += bytes;
  }

  flush(): void {
    this.#before_flush();
    this.#send();
  }

  #send(): void {
    if (this.#length === 0) return;
    const bytes = new Uint8Array(this.#length);
    let at = 0;
    for (const part of this.#parts) {
      bytes.set(part, at);
      at += part.length;
    }
    this.#parts = [];
    this.#length = 0;
    this.#link.send(bytes);
  }
}
