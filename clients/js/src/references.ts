// Functions that cross the connection as values.
//
// This side's functions get an id for the peer, and a count of their crossings: `$yue/release` returns crossings, and
// with the last one the function is forgotten. The peer's functions are callables here; when the engine has collected
// one, its crossings are returned to the peer. All of it ends with the link, and ids begin at a random number, so that
// an id of an earlier link finds nothing.

import { ArgumentError, ConnectionLostError, MessageRefusedError } from './errors.js';
import type { AnyFunction, FunctionTable, Reference } from './values.js';

/** A function of this side that the peer holds, or that a held call will carry. */
interface Export {
  id: number;
  value: AnyFunction;
  /** Crossings that the peer has not returned. */
  crossings: number;
  /** Held calls that will carry it. */
  held: number;
}

/** A function of the peer. The callable is held weakly, so that the engine can collect it. */
export interface Import {
  owner: References;
  /** The link that it came over. */
  epoch: number;
  id: number;
  crossings: number;
  callable: WeakRef<AnyFunction> | undefined;
}

/** A release of this many takes at most 650 bytes: it fits into the limits of both sides. */
const RELEASES_PER_MESSAGE = 32;

const imports_of = new WeakMap<AnyFunction, Import>();

// A finalizer only records; the records leave together.
const collected = new FinalizationRegistry<Import>((entry) => entry.owner.record_release(entry));

/** The functions that one message carries, while it is encoded and until it is sent. */
export interface Carried {
  exports: Export[];
  /** Functions of the peer that it names: a reference, so that they are not released before the message leaves. */
  imports: AnyFunction[];
}

/** A random number of 48 bits, other than 0. */
export function random_id(): number {
  const [high, low] = crypto.getRandomValues(new Uint32Array(2)) as unknown as [number, number];
  return (high & 0xffff) * 2 ** 32 + low + 1;
}

export class References implements FunctionTable {
  #next_id = random_id();
  #exports = new Map<number, Export>();
  #by_value = new Map<AnyFunction, Export>();
  #imports = new Map<number, Import>();
  #releases: [number, number][] = [];
  #carried: Carried | undefined;
  /** Counts links. */
  epoch = 0;

  readonly #limit: number;
  readonly #call: (entry: Import, args: unknown[]) => Promise<unknown>;
  readonly #refuses: (value: AnyFunction) => string | undefined;
  readonly #flush_releases: () => void;

  constructor(
    limit: number,
    call: (entry: Import, args: unknown[]) => Promise<unknown>,
    refuses: (value: AnyFunction) => string | undefined,
    flush_releases: () => void,
  ) {
    this.#limit = limit;
    this.#call = call;
    this.#refuses = refuses;
    this.#flush_releases = flush_releases;
  }

  /** The number of this side's functions that the peer holds. */
  get held(): number {
    return this.#exports.size;
  }

  /** Runs an encoder, and returns the functions that it sent. If it throws, they are taken back. */
  carry<T>(encode: () => T): { encoded: T; carried: Carried } {
    const before = this.#carried;
    const carried: Carried = { exports: [], imports: [] };
    this.#carried = carried;
    try {
      return { encoded: encode(), carried };
    } catch (error) {
      this.drop(carried);
      throw error;
    } finally {
      this.#carried = before;
    }
  }

  send(value: AnyFunction): Reference {
    const refusal = this.#refuses(value);
    if (refusal) throw new ArgumentError(refusal);
    const carried = this.#carried!;
    const entry = imports_of.get(value);
    if (entry) {
      if (entry.owner !== this) {
        throw new ArgumentError('a function of another connection cannot be sent: wrap it, (...args) => f(...args)');
      }
      this.check_fresh(entry);
      carried.imports.push(value);
      return { owned_by_sender: false, id: entry.id };
    }
    let known = this.#by_value.get(value);
    if (!known) {
      if (this.#exports.size >= this.#limit) {
        throw new MessageRefusedError(`the peer holds ${this.#limit} functions already, the limit references_max`);
      }
      known = { id: this.#next_id, value, crossings: 0, held: 0 };
      this.#next_id += 1;
      this.#exports.set(known.id, known);
      this.#by_value.set(value, known);
    }
    known.held += 1;
    carried.exports.push(known);
    return { owned_by_sender: true, id: known.id };
  }

  /** The message is sent: the peer holds what it carries. */
  sent(carried: Carried): void {
    for (const entry of carried.exports) {
      entry.held -= 1;
      entry.crossings += 1;
    }
  }

  /** The message is not sent. */
  drop(carried: Carried): void {
    for (const entry of carried.exports) {
      entry.held -= 1;
      this.#forget_unused(entry);
    }
  }

  receive({ owned_by_sender, id }: Reference): AnyFunction | undefined {
    if (!owned_by_sender) return this.exported(id);
    const known = this.#imports.get(id);
    const alive = known?.callable?.deref();
    if (known && alive) {
      known.crossings += 1;
      return alive;
    }
    const entry: Import = { owner: this, epoch: this.epoch, id, crossings: 1, callable: undefined };
    const callable: AnyFunction = (...args: unknown[]) => this.#call(entry, args);
    entry.callable = new WeakRef(callable);
    imports_of.set(callable, entry);
    this.#imports.set(id, entry);
    collected.register(callable, entry);
    return callable;
  }

  /** The function of this side that the peer names by `id`. */
  exported(id: number): AnyFunction | undefined {
    const entry = this.#exports.get(id);
    return entry && entry.crossings > 0 ? entry.value : undefined;
  }

  /** The peer returns crossings. It may claim more than it holds. */
  release(pairs: unknown): void {
    if (!Array.isArray(pairs)) return;
    for (const pair of pairs) {
      if (!Array.isArray(pair)) continue;
      const entry = this.#exports.get(pair[0] as number);
      const count = Number(pair[1]);
      if (!entry || !(count > 0)) continue;
      entry.crossings = Math.max(0, entry.crossings - count);
      this.#forget_unused(entry);
    }
  }

  #forget_unused(entry: Export): void {
    if (entry.crossings > 0 || entry.held > 0 || this.#exports.get(entry.id) !== entry) return;
    this.#exports.delete(entry.id);
    this.#by_value.delete(entry.value);
  }

  /** Throws if the function came over a link that is lost. */
  check_fresh(entry: Import): void {
    if (entry.epoch === this.epoch) return;
    const text = 'the function belonged to a connection that is lost; get it from the peer again';
    throw new ConnectionLostError(text, { retryable: true });
  }

  record_release(entry: Import): void {
    if (entry.epoch !== this.epoch) return;
    // Not if the function has crossed again meanwhile: then the id has a new entry.
    if (this.#imports.get(entry.id) === entry) this.#imports.delete(entry.id);
    this.#releases.push([entry.id, entry.crossings]);
    if (this.#releases.length === 1) queueMicrotask(this.#flush_releases);
  }

  /** The releases that are due, as arguments of messages. */
  take_releases(): [number, number][][] {
    const messages = [];
    while (this.#releases.length > 0) messages.push(this.#releases.splice(0, RELEASES_PER_MESSAGE));
    return messages;
  }

  /** The link has ended, and every reference with it, except for what held calls will carry. */
  end_link(): void {
    this.epoch += 1;
    this.#imports.clear();
    this.#releases = [];
    this.#next_id = random_id();
    for (const entry of [...this.#exports.values()]) {
      entry.crossings = 0;
      this.#forget_unused(entry);
    }
  }
}
