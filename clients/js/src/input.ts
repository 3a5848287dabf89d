// The bytes of a link, divided into messages.

import { Scanner } from './scanner.js';

const FIRST_CAPACITY = 4096;

/** One message's bytes, and what the scanner found out about it. */
export interface Message {
  bytes: Uint8Array;
  wide: boolean;
  depth: number;
  memory: number;
}

export class Input {
  readonly #scanner: Scanner;
  #bytes: Uint8Array = new Uint8Array(0);
  #length = 0;

  constructor(message_max: number) {
    this.#scanner = new Scanner(message_max);
  }

  /** Passes each message that is complete now to `handle`, while that returns true. Throws `Malformed`. */
  push(data: Uint8Array, handle: (message: Message) => boolean): void {
    this.#append(data);
    const scanner = this.#scanner;
    const whole = this.rest;
    let start = 0;
    try {
      for (let end; (end = scanner.find(whole, start)) >= 0; ) {
        const { wide, depth, memory } = scanner;
        const bytes = whole.subarray(start, end);
        start = end;
        if (!handle({ bytes, wide, depth, memory })) return;
      }
    } finally {
      // Decoded values may refer to these bytes, so the rest gets a buffer of its own.
      if (start > 0) {
        this.#bytes = whole.slice(start);
        this.#length = this.#bytes.length;
      }
    }
  }

  /** The bytes that belong to no message yet. */
  get rest(): Uint8Array {
    return this.#bytes.subarray(0, this.#length);
  }

  #append(data: Uint8Array): void {
    if (this.#length === 0) {
      this.#bytes = data;
    } else {
      if (this.#length + data.length > this.#bytes.length) {
        const larger = new Uint8Array(Math.max(FIRST_CAPACITY, 2 * (this.#length + data.length)));
        larger.set(this.#bytes.subarray(0, this.#length));
        this.#bytes = larger;
      }
      this.#bytes.set(data, this.#length);
    }
    this.#length += data.length;
  }
}
