// Calls of this side: those that wait for their answers, and those that are held until the link is up and granted.
// A held call is complete except for what depends on the link: its remaining time, and whether the peer understands it.

import { ArgumentError, MessageRefusedError, QueueFullError, TimeoutError, type YueError } from './errors.js';
import type { Carried } from './references.js';

/** A call, or a notification that is held. */
export interface Call {
  /** Undefined: a notification. */
  id: number | undefined;
  /** The method and the arguments, encoded. */
  body: Uint8Array<ArrayBuffer>;
  carried: Carried;
  /** The link of functions of the peer that it names. */
  epoch: number | undefined;
  /** By `performance.now()`. */
  deadline: number;
  written: boolean;
  /** `count`: of results in an array, where it is not one result. */
  resolve: (value: unknown, count?: number) => void;
  reject: (error: unknown) => void;
  timer: ReturnType<typeof setTimeout> | undefined;
}

/** A held call takes more memory than its bytes. */
const OVERHEAD_BYTES = 64;

/** The longest time that engines wait. */
const TIMER_MAX_MS = 2 ** 31 - 1;

export class Calls {
  readonly #waiting = new Map<number, Call>();
  #held = new Set<Call>();
  #held_bytes = 0;
  #next_id = 0;

  readonly #limit: number;
  readonly #held_max: number;
  readonly #expire: (call: Call) => void;

  constructor(
    limit: number,
    held_max: number,
    expire: (call: Call) => void,
  ) {
    this.#limit = limit;
    this.#held_max = held_max;
    this.#expire = expire;
  }

  /** The number of calls that wait for answers or for the link. */
  get in_flight(): number {
    return this.#waiting.size;
  }

  /** A msgid that no call has which still waits. `own`: for a request of this library, which no limit stops. */
  take_id(own = false): number {
    if (!own && this.#waiting.size >= this.#limit) {
      const text = `${this.#limit} calls, the limit in_flight_max, wait for answers`;
      throw new MessageRefusedError(text, { retryable: true });
    }
    while (this.#waiting.has(this.#next_id)) this.#next_id = (this.#next_id + 1) >>> 0;
    const id = this.#next_id;
    this.#next_id = (id + 1) >>> 0;
    return id;
  }

  add(call: Call): void {
    if (call.id !== undefined) this.#waiting.set(call.id, call);
    const left = call.deadline - performance.now();
    if (left < TIMER_MAX_MS) call.timer = setTimeout(() => this.#expire(call), Math.max(0, Math.ceil(left)));
  }

  /** Keeps a call until the link is up. Throws if too much is held; one call of any size is. */
  hold(call: Call, address: string): void {
    const bytes = call.body.length + OVERHEAD_BYTES;
    if (this.#held.size > 0 && this.#held_bytes + bytes > this.#held_max) {
      const text = `calls of ${this.#held_max} bytes, the limit held_max, wait for the connection to ${address}`;
      throw new QueueFullError(text, { retryable: true });
    }
    this.#held_bytes += bytes;
    this.#held.add(call);
  }

  /** The held calls, in the order in which they were made; they are not held any more. */
  take_held(): Call[] {
    const held = [...this.#held];
    this.#held.clear();
    this.#held_bytes = 0;
    return held;
  }

  /** The call that an answer is for; undefined for an answer that comes too late. */
  take(id: unknown): Call | undefined {
    const call = this.#waiting.get(id as number);
    if (!call?.written) return undefined;
    this.remove(call);
    return call;
  }

  /** Nobody waits for the call any more. */
  remove(call: Call): void {
    clearTimeout(call.timer);
    if (call.id !== undefined && this.#waiting.get(call.id) === call) this.#waiting.delete(call.id);
    if (this.#held.delete(call)) this.#held_bytes -= call.body.length + OVERHEAD_BYTES;
  }

  /** Returns the calls that were written, of which none will be answered. */
  take_written(): Call[] {
    const written = [...this.#waiting.values()].filter((call) => call.written);
    for (const call of written) this.remove(call);
    return written;
  }
}

export const timeout_error = (text: string, written: boolean): YueError =>
  new TimeoutError(text, { retryable: !written });

/** Returns the seconds that a call may last. */
export function check_seconds(seconds: unknown): number {
  if (typeof seconds === 'number' && seconds >= 0) return seconds;
  throw new ArgumentError(`a call takes the seconds that it may last as a number, 0 or more, not ${String(seconds)}`);
}
