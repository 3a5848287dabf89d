// The server's calls of this side's functions.

import { as_error, to_wire } from './error_values.js';
import { NoMethodError, ServerBusyError, ServerError, TimeoutError, YueError } from './errors.js';
import type { Settings, Symbols } from './options.js';
import { Results, type AnyFunction } from './values.js';

/** A request, or with `id` undefined a notification. */
export interface Request {
  id: number | undefined;
  /** A name, or the id of a function that was passed as a value. */
  method: unknown;
  params: unknown[];
  bytes: number;
  /** The remaining time of the caller in ms. */
  left: unknown;
}

/** The answer to a request: one of the two. */
export interface Answer {
  error?: [number, string, Record<string, unknown>] | undefined;
  results?: unknown[];
}

/** Bytes of requests that may run at once. */
const RUNNING_BYTES_MAX = 8 * 1024 * 1024;

/** Functions that an answer to `$yue/describe` lists. */
const DESCRIBED_MAX = 4096;

interface Found {
  owner: unknown;
  method: AnyFunction;
}

const is_promise = (value: unknown): value is Promise<unknown> =>
  typeof (value as { then?: unknown } | null | undefined)?.then === 'function';

/** The value of an own data property: never one of a prototype, and no getter is run. */
function own(object: unknown, name: string): unknown {
  if (typeof object !== 'object' || object === null) return undefined;
  return Object.getOwnPropertyDescriptor(object, name)?.value;
}

/** Finds a dotted name in the layers, from the last to the first. */
export function find(layers: Symbols[], name: string): Found | undefined {
  const segments = name.split('.');
  if (segments.some((segment) => segment === '' || segment.startsWith('_'))) return undefined;
  const last = segments.pop()!;
  for (const layer of [...layers].reverse()) {
    const owner = segments.reduce<unknown>(own, layer);
    const method = own(owner, last);
    if (typeof method === 'function') return { owner, method: method as AnyFunction };
  }
  return undefined;
}

/** The names of the functions that the server may call, sorted. */
export function describe(layers: Symbols[]): Record<string, unknown> {
  const names = new Set<string>();
  const walk = (object: object, prefix: string, around: object[]): void => {
    if (around.includes(object)) return;
    for (const name of Object.keys(object)) {
      const value = own(object, name);
      if (name === '' || name.startsWith('_') || name.includes('.') || names.size > DESCRIBED_MAX) continue;
      if (typeof value === 'function') names.add(prefix + name);
      else if (typeof value === 'object' && value !== null) walk(value, `${prefix}${name}.`, [...around, object]);
    }
  };
  for (const layer of layers) walk(layer, '', []);
  const sorted = [...names].sort();
  const more = sorted.length > DESCRIBED_MAX;
  return { functions: sorted.slice(0, DESCRIBED_MAX).map((name) => ({ name })), ...(more && { more }) };
}

export class Serving {
  #running = 0;
  #running_bytes = 0;
  readonly layers: Symbols[];

  readonly #settings: Settings;
  readonly #exported: (id: number) => AnyFunction | undefined;

  constructor(
    settings: Settings,
    exported: (id: number) => AnyFunction | undefined,
  ) {
    this.#settings = settings;
    this.#exported = exported;
    this.layers = [settings.symbols ?? {}];
  }

  /** The number of requests that run. */
  get in_flight(): number {
    return this.#running;
  }

  /** Runs a request and passes its answer to `done`, at once if the function returns no promise. */
  run(request: Request, done: (answer: Answer) => void): void {
    const fail = (error: unknown) => done({ error: this.#error(error) });
    const { in_flight_max } = this.#settings;
    if (this.#running >= in_flight_max || this.#running_bytes + request.bytes > RUNNING_BYTES_MAX) {
      return fail(new ServerBusyError(`${this.#running} requests run already, the limit`, { retryable: true }));
    }
    if (typeof request.left === 'number' && request.left <= 0) {
      return fail(new TimeoutError('the time of the call had passed before it started', { retryable: true }));
    }
    const found = this.#find(request.method);
    if (found instanceof YueError) return fail(found);
    this.#running += 1;
    this.#running_bytes += request.bytes;
    const end = (finish: () => void) => {
      this.#running -= 1;
      this.#running_bytes -= request.bytes;
      finish();
    };
    const failed = (failure: unknown) =>
      end(() => {
        this.#settings.log(`yue: the handler of ${String(request.method).slice(0, 100)} failed`, failure);
        fail(failure);
      });
    const returned = (value: unknown) =>
      end(() => done({ results: value instanceof Results ? value.values : value === undefined ? [] : [value] }));
    try {
      const value: unknown = found.method.apply(found.owner, request.params);
      if (is_promise(value)) value.then(returned, failed);
      else returned(value);
    } catch (failure) {
      failed(failure);
    }
  }

  #find(method: unknown): Found | YueError {
    if (typeof method === 'number') {
      const value = this.#exported(method);
      if (value) return { owner: undefined, method: value };
      return new NoMethodError('there is no such function: it was released, or belonged to an earlier link');
    }
    const name = method instanceof Uint8Array ? new TextDecoder().decode(method) : String(method);
    return find(this.layers, name) ?? new NoMethodError(`there is no method '${name.slice(0, 100)}'`);
  }

  #error(failure: unknown): Answer['error'] {
    return to_wire(failure, this.#settings.traceback);
  }

  /** The answer in place of results, or of an error's value, that cannot be sent. */
  unsendable(failure: unknown): Answer {
    const error = as_error(failure);
    return { error: this.#error(error.is_a('MessageTooLargeError') ? error : new ServerError(error.msg)) };
  }
}
