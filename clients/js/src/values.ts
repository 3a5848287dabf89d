// Values to msgpack and back, by @msgpack/msgpack. Here are the rules that it does not have: functions as references,
// integers of 64 bits, and errors that name the path to a value that cannot be sent.

import { Decoder, Encoder, type ExtensionCodecType } from '@msgpack/msgpack';
import { ArgumentError } from './errors.js';

/** The ext code of a reference to a function, and the owner of the function: the sender of the message, or its peer. */
const EXT_CODE = 0x59;
const SENDER_OWNS = 1;
const RECEIVER_OWNS = 2;

/** A function as it crosses a connection. The owner is seen from the message that carries it. */
export interface Reference {
  owned_by_sender: boolean;
  id: number;
}

export type AnyFunction = (...args: any[]) => any;

/** The functions that cross a connection. */
export interface FunctionTable {
  /** The reference for a function among values that are sent. */
  send(value: AnyFunction): Reference;
  /** The function for a reference that has arrived; undefined if there is none of that id. */
  receive(reference: Reference): AnyFunction | undefined;
}

/** An opaque value: a msgpack extension. The class is declared here so that the published types need no package. */
export class ExtData {
  constructor(readonly type: number, readonly data: Uint8Array) {}
}

/** Several results of a handler. */
export class Results {
  constructor(readonly values: unknown[]) {}
}

/** Returns several results from a handler, or none: `return results(10, 'gold')`. */
export const results = (...values: unknown[]): Results => new Results(values);

const MIN_INT64 = -(2n ** 63n);
const MAX_UINT64 = 2n ** 64n - 1n;

function key_path(path: (string | number)[]): string {
  return path.map((key, i) => (typeof key === 'number' ? `[${key}]` : i === 0 ? key : `.${key}`)).join('');
}

/** Objects that would arrive as an empty map, so that their contents would be lost without a word. */
const UNSENDABLE = [Map, Set, WeakMap, WeakSet, Promise, RegExp, Date, Error, ArrayBuffer, Results];

function why_unsendable(value: object): string | undefined {
  const kind = UNSENDABLE.find((type) => value instanceof type)?.name;
  if (!kind) return undefined;
  return `a ${kind} cannot be sent`;
}

export class Codec {
  readonly #extensions: ExtensionCodecType<undefined>;
  readonly #decoder: Decoder;
  #encoder: Encoder;

  readonly #functions: FunctionTable;
  readonly #nesting_max: number;

  constructor(
    functions: FunctionTable,
    nesting_max: number,
  ) {
    this.#functions = functions;
    this.#nesting_max = nesting_max;
    this.#extensions = {
      tryToEncode: (value) => {
        if (typeof value === 'function') return new ExtData(EXT_CODE, this.#encode_function(value as AnyFunction));
        return value instanceof ExtData ? value : null;
      },
      decode: (body, type) => (type === EXT_CODE ? this.#decode_function(body) : new ExtData(type, body)),
    };
    this.#decoder = new Decoder({
      extensionCodec: this.#extensions,
      useBigInt64: true,
      keyDecoder: null,
      mapKeyConverter: (key: unknown) => (typeof key === 'number' ? key : String(key)),
    });
    this.#encoder = this.#new_encoder(false);
  }

  #new_encoder(useBigInt64: boolean): Encoder {
    return new Encoder({ extensionCodec: this.#extensions, useBigInt64, maxDepth: Infinity, ignoreUndefined: true });
  }

  /** Encodes one value, without a check of it. `big`: it has a bigint. */
  encode(value: unknown, big = false): Uint8Array<ArrayBuffer> {
    // With bigints the encoder sends numbers above 32 bits as floats, so they become bigints, too.
    if (big) return this.#new_encoder(true).encode(widen(value)) as Uint8Array<ArrayBuffer>;
    const bytes = this.#encoder.encode(value) as Uint8Array<ArrayBuffer>;
    // The encoder keeps its buffer: not that of an unusually large message.
    if (bytes.length > 262_144) this.#encoder = this.#new_encoder(false);
    return bytes;
  }

  /**
   * Throws an ArgumentError with the path to the first value that cannot be sent. Returns whether there is a bigint.
   */
  check(values: unknown[], name: string): boolean {
    let big = false;
    const path: (string | number)[] = [name];
    const refuse = (text: string): never => {
      throw new ArgumentError(`${key_path(path)}: ${text}`);
    };
    const check_value = (value: unknown, depth: number): void => {
      if (typeof value === 'bigint') {
        big = true;
        if (value < MIN_INT64 || value > MAX_UINT64) refuse('has more than 64 bits');
      }
      if (typeof value === 'symbol') refuse('a symbol cannot be sent');
      if (typeof value !== 'object' || value === null || value instanceof ExtData || ArrayBuffer.isView(value)) return;
      if (depth > this.#nesting_max) {
        refuse(`nested deeper than ${this.#nesting_max} levels, or contains itself`);
      }
      const why = why_unsendable(value);
      if (why) refuse(why);
      if (Array.isArray(value)) check_list(value, depth);
      else for (const key of Object.keys(value)) check_at(key, (value as Record<string, unknown>)[key], depth + 1);
    };
    const check_at = (key: string | number, value: unknown, depth: number): void => {
      path.push(key);
      check_value(value, depth);
      path.pop();
    };
    const check_list = (list: unknown[], depth: number): void => {
      for (let i = 0; i < list.length; i += 1) check_at(i, list[i], depth + 1);
    };
    check_list(values, 0);
    return big;
  }

  /** Decodes one message. `wide`: it has integers of 64 bits, which become numbers where a number holds them. */
  decode(bytes: Uint8Array, wide: boolean): unknown {
    const value = this.#decoder.decode(bytes);
    return wide ? narrow(value) : value;
  }

  #encode_function(value: AnyFunction): Uint8Array {
    const { owned_by_sender, id } = this.#functions.send(value);
    const body = new Uint8Array(8);
    const view = new DataView(body.buffer);
    view.setBigUint64(0, BigInt(id));
    body[0] = owned_by_sender ? SENDER_OWNS : RECEIVER_OWNS;
    return body;
  }

  #decode_function(body: Uint8Array): unknown {
    const owner = body[0];
    if (body.length !== 8 || (owner !== SENDER_OWNS && owner !== RECEIVER_OWNS)) return new ExtData(EXT_CODE, body);
    // Seven bytes, of which yue uses six and a bit: they fit a number, unless the peer is hostile.
    let id = 0;
    for (const byte of body.subarray(1)) id = id * 256 + byte;
    return this.#functions.receive({ owned_by_sender: owner === SENDER_OWNS, id }) ?? null;
  }
}

const is_plain = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !(value instanceof ExtData) && !ArrayBuffer.isView(value);

/** A copy with bigints in place of integers above 32 bits. */
function widen(value: unknown): unknown {
  if (Number.isSafeInteger(value) && Math.abs(value as number) >= 2 ** 31) return BigInt(value as number);
  if (Array.isArray(value)) return value.map(widen);
  if (!is_plain(value)) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, widen(item)]));
}

/** Turns each bigint that a number can hold into one, in place. */
function narrow(value: unknown): unknown {
  if (typeof value === 'bigint') {
    const number = Number(value);
    return Number.isSafeInteger(number) ? number : value;
  }
  if (Array.isArray(value)) {
    for (let i = 0; i < value.length; i += 1) value[i] = narrow(value[i]);
  } else if (is_plain(value)) {
    for (const key of Object.keys(value)) value[key] = narrow(value[key]);
  }
  return value;
}
