// One connection: its links, the handshake of each, and the messages of both directions.
//
//   idle ──call──▶ connecting ──link──▶ greeting ──$yue/granted──▶ accepting ──▶ up
//    ▲                ▲                     └──────────┬──────────────┴──────────┘
//    │                └─────── again ───── ending ◀────┘ the link ends; `close` runs
//    └─────────────────────── rest ──────────┘            closed: by close(), for good
//
// A plain msgpack-rpc server answers `$yue/hello` with an error: it knows no grant, and is up at once.

import { Calls, check_seconds, timeout_error, type Call } from './calls.js';
import { as_error, from_wire, to_wire } from './error_values.js';
import {
  ArgumentError, CancelledError, ConnectionLostError, ConnectionTimeoutError, MessageRefusedError,
  MessageTooLargeError, QueueFullError, type YueError,
} from './errors.js';
import { Events, type EventName } from './events.js';
import { Input, type Message } from './input.js';
import { Keepalive } from './keepalive.js';
import type { Settings, Symbols } from './options.js';
import { Output } from './output.js';
import { is_procedure, procedures } from './procedures.js';
import { copy_of, lost_call, shown, unsent_call, type Reason } from './reasons.js';
import { References, random_id, type Carried, type Import } from './references.js';
import { Retries } from './retries.js';
import { Malformed, peek } from './scanner.js';
import { Serving, describe, type Answer } from './serving.js';
import type { Connect, Link, LinkEvents } from './transport.js';
import { Codec } from './values.js';

/** The version of yue's extensions that this side speaks. */
const VERSION = 1;

/** The values of one message may take so many times its largest size in memory. */
const DECODED_FACTOR = 8;

type Phase = 'idle' | 'connecting' | 'greeting' | 'accepting' | 'up' | 'ending' | 'closed';

/** How one call is made. */
export interface CallOptions {
  /** Seconds that it waits; by default the option `timeout`. */
  timeout?: number | undefined;
  /** Gives the call up when it is aborted: it fails with a CancelledError, and the server is told. */
  signal?: AbortSignal | undefined;
  /** Returns all results in an array, however many there are. */
  all?: boolean | undefined;
}

interface Start extends CallOptions {
  /** It does not wait for the grant. */
  early?: boolean;
  /** A function of the peer, in place of a name. */
  entry?: Import;
}

/** A function that the server lists. */
export interface Described {
  name: string;
  params?: string[];
  vararg?: boolean;
  doc?: string;
}

export class Connection {
  /** The server's procedures. In `accept` they do not wait for the grant. */
  readonly procs: any;
  #phase: Phase = 'idle';
  #link: Link | undefined;
  #peer_is_yue = false;
  #input: Input;
  #output: Output | undefined;
  readonly #calls: Calls;
  readonly #codec: Codec;
  readonly #references: References;
  readonly #serving: Serving;
  readonly #keepalive: Keepalive;
  readonly #events: Events;
  readonly #retries: Retries;
  #timer: ReturnType<typeof setTimeout> | undefined;
  readonly #counts = {
    calls: 0, calls_held: 0, timeouts: 0, notifications: 0, notifications_dropped: 0,
    requests: 0, bytes_in: 0, links: 0, pings: 0,
  };

  readonly #connector: Connect;
  readonly #settings: Settings;

  /** @internal */
  constructor(
    /** The server's address. */
    readonly address: string,
    connector: Connect,
    settings: Settings,
  ) {
    this.#connector = connector;
    this.#settings = settings;
    this.#input = new Input(settings.message_max);
    this.#events = new Events(settings.log);
    this.#retries = new Retries(settings);
    this.#calls = new Calls(settings.in_flight_max, settings.held_max, (call) => this.#expire(call));
    this.#references = new References(
      settings.references_max,
      (entry, args) => this.start('', args, { entry }),
      (value) => (is_procedure(value) ? 'the procedures of a connection cannot be sent' : undefined),
      () => this.#output?.flush(),
    );
    this.#codec = new Codec(this.#references, settings.nesting_max);
    this.#serving = new Serving(settings, (id) => this.#references.exported(id));
    this.#keepalive = new Keepalive(settings.keepalive, {
      ping: () => {
        this.#counts.pings += 1;
        this.#control_request('$yue/ping', [], () => {});
      },
      lost: () => this.#end_link({ kind: 'lost', text: 'the link broke: the peer does not answer pings' }, true),
    });
    this.procs = procedures(this, true);
  }

  // -- For programs ---------------------------------------------------------------------------------------------------

  /** Whether calls are sent at once: the link is up and granted. */
  get connected(): boolean {
    return this.#phase === 'up';
  }

  /** The functions that the server may call, to read and to change. */
  get namespace(): Symbols {
    return this.#serving.layers[0]!;
  }

  /** Adds functions that the server may call. */
  import(symbols: Symbols): void {
    this.#serving.layers.push(symbols);
  }

  /** Connects now. By default the first call does. */
  connect(): void {
    if (this.#phase === 'idle') this.#start_connecting();
  }

  /** Calls the procedure of that name, which is taken literally: `''` has no prefixes. */
  call(name: string, args: unknown[] = [], options: CallOptions = {}): Promise<any> {
    return this.start(name, args, options);
  }

  /** Notifies: there is no answer. Returns whether the notification was queued. */
  notify(name: string, ...args: unknown[]): boolean {
    return this.start_notification(name, args);
  }

  /** The server's functions that this side may call. */
  async describe(): Promise<Described[]> {
    const answer = (await this.start('$yue/describe', [], {})) as { functions: Described[] };
    return answer.functions;
  }

  /** Calls `listener` at each event of that name. Returns a function that ends this. */
  on(event: EventName, listener: (value: any) => void): () => void {
    return this.#events.on(event, listener);
  }

  /** Counts, of all links together. */
  stats() {
    return {
      ...this.#counts,
      calls_in_flight: this.#calls.in_flight,
      requests_in_flight: this.#serving.in_flight,
      functions_held: this.#references.held,
      queued_bytes: this.#output?.queued ?? 0,
    };
  }

  /** Closes the connection for good. The server's `__close` gets the reason. */
  close(reason = ''): void {
    if (this.#phase === 'closed') return;
    clearTimeout(this.#timer);
    if (this.#link) {
      if (reason !== '' && this.#peer_is_yue) {
        this.#send_notification('$yue/refused', [to_wire(new ConnectionLostError(reason), false)]);
      }
      this.#end_link({ kind: 'local', text: 'closed by this side' }, false, reason);
      return;
    }
    this.#phase = 'closed';
    this.#fail_held(() => this.#closed_error());
  }

  // -- Calls ----------------------------------------------------------------------------------------------------------

  /** @internal Makes a call. */
  start(name: string, args: unknown[], options: Start): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const { signal, entry, all } = options;
      if (signal?.aborted) throw new CancelledError('the call was cancelled', { retryable: true });
      const deadline = performance.now() + check_seconds(options.timeout ?? this.#settings.timeout) * 1000;
      if (this.#phase === 'closed') throw this.#closed_error();
      const { encoded, carried } = this.#encode_body(entry ?? name, args);
      const abandon = () => this.#give_up(call, (written) =>
        new CancelledError('the call was cancelled', { retryable: !written }));
      const call: Call = {
        id: undefined, body: encoded, carried, deadline, written: false, timer: undefined,
        epoch: entry || carried.imports.length > 0 ? this.#references.epoch : undefined,
        resolve: (value, count) => {
          signal?.removeEventListener('abort', abandon);
          resolve(all && count === undefined ? [value] : !all && count === 0 ? undefined : value);
        },
        reject: (error) => {
          signal?.removeEventListener('abort', abandon);
          reject(error);
        },
      };
      signal?.addEventListener('abort', abandon);
      try {
        call.id = this.#calls.take_id();
        this.#counts.calls += 1;
        this.#calls.add(call);
        this.#send_or_hold(call, options);
      } catch (error) {
        this.#calls.remove(call);
        this.#references.drop(carried);
        call.reject(error);
      }
    });
  }

  /** @internal Makes a notification. */
  start_notification(name: string, args: unknown[], options: { timeout?: number; early?: boolean } = {}): boolean {
    if (this.#phase === 'closed') return false;
    const { encoded, carried } = this.#encode_body(name, args);
    const call: Call = {
      id: undefined, body: encoded, carried, written: false, timer: undefined,
      deadline: performance.now() + check_seconds(options.timeout ?? Infinity) * 1000,
      epoch: carried.imports.length > 0 ? this.#references.epoch : undefined,
      resolve: () => {},
      reject: () => {},
    };
    try {
      this.#send_or_hold(call, options);
    } catch (error) {
      this.#references.drop(carried);
      if (!(error instanceof QueueFullError)) throw error;
      this.#counts.notifications_dropped += 1;
      return false;
    }
    this.#counts.notifications += 1;
    if (!call.written) this.#calls.add(call);
    return true;
  }

  #closed_error(): YueError {
    return new ConnectionLostError(`the connection to ${this.address} is closed`);
  }

  /** The method and the arguments, without the array around them. */
  #encode_body(method: string | Import, args: unknown[]): { encoded: Uint8Array<ArrayBuffer>; carried: Carried } {
    if (typeof method !== 'string') this.#references.check_fresh(method);
    const big = this.#codec.check(args, 'args');
    const name = typeof method === 'string' ? method : method.id;
    const outcome = this.#references.carry(() => this.#codec.encode([name, args], big).subarray(1));
    if (outcome.encoded.length > this.#settings.message_max) {
      this.#references.drop(outcome.carried);
      throw this.#too_large(outcome.encoded.length);
    }
    return outcome;
  }

  #too_large(bytes: number): YueError {
    const { message_max } = this.#settings;
    return new MessageTooLargeError(`a message of ${bytes} bytes is larger than message_max, ${message_max}`);
  }

  #send_or_hold(call: Call, { early, entry }: Start): void {
    const handshake = this.#phase === 'greeting' || this.#phase === 'accepting';
    if (this.#phase === 'up' || (early && this.#phase === 'accepting') || (entry && handshake)) {
      if (this.#output!.queued > this.#settings.output_max) {
        const text = `more than output_max, ${this.#settings.output_max} bytes, wait to be sent`;
        throw new QueueFullError(text, { retryable: true });
      }
      this.#write_call(call);
      return;
    }
    this.#calls.hold(call, this.address);
    this.#counts.calls_held += 1;
    this.connect();
  }

  #write_call(call: Call): void {
    if (call.carried.exports.length > 0 && !this.#peer_is_yue) {
      throw new ArgumentError('cannot send a function: the peer is not a yue peer');
    }
    const head = [0x92, 2];
    let tail: Uint8Array<ArrayBuffer> | undefined;
    if (call.id !== undefined) {
      const left = Math.ceil(call.deadline - performance.now());
      if (this.#peer_is_yue && left < Number.MAX_SAFE_INTEGER) tail = this.#codec.encode({ t: Math.max(0, left) });
      head.splice(1, 1, 0, 0xce, call.id >>> 24, (call.id >>> 16) & 255, (call.id >>> 8) & 255, call.id & 255);
    }
    head[0] = call.id === undefined ? 0x93 : tail ? 0x95 : 0x94;
    call.written = true;
    this.#references.sent(call.carried);
    this.#output!.write(Uint8Array.from(head), call.body, ...(tail ? [tail] : []));
  }

  #write_held(): void {
    for (const call of this.#calls.take_held()) {
      try {
        if (call.epoch !== undefined && call.epoch !== this.#references.epoch) {
          throw new ConnectionLostError('the call names a function of a connection that is lost', { retryable: true });
        }
        this.#write_call(call);
        if (call.id === undefined) clearTimeout(call.timer);
      } catch (error) {
        this.#references.drop(call.carried);
        this.#calls.remove(call);
        call.reject(error);
      }
    }
  }

  #expire(call: Call): void {
    if (call.id === undefined) {
      this.#calls.remove(call);
      this.#references.drop(call.carried);
      this.#counts.notifications_dropped += 1;
      return;
    }
    this.#give_up(call, (written) => this.#timed_out(written));
  }

  #timed_out(written: boolean): YueError {
    this.#counts.timeouts += 1;
    this.#events.emit('timeout');
    if (this.#phase === 'up') return timeout_error(`${this.address} did not answer in time`, written);
    const why = this.#retries.trouble ? `: ${this.#retries.trouble}` : '';
    return timeout_error(`the connection to ${this.address} was not ready in time${why}`, written);
  }

  #give_up(call: Call, error: (written: boolean) => YueError): void {
    this.#calls.remove(call);
    if (!call.written) this.#references.drop(call.carried);
    else if (this.#peer_is_yue && this.#link) this.#send_notification('$yue/cancel', [call.id]);
    call.reject(error(call.written));
  }

  #fail_held(error: () => YueError): void {
    for (const call of this.#calls.take_held()) {
      this.#calls.remove(call);
      this.#references.drop(call.carried);
      call.reject(error());
    }
  }

  #send_notification(method: string, args: unknown[]): void {
    this.#output?.write(this.#codec.encode([2, method, args]));
  }

  /** A request of this library itself, which waits as long as the link lasts. */
  #control_request(method: string, args: unknown[], done: (error: YueError | undefined) => void): void {
    const call: Call = {
      id: this.#calls.take_id(true), body: this.#codec.encode([method, args]).subarray(1), deadline: Infinity,
      carried: { exports: [], imports: [] }, epoch: undefined, written: false, timer: undefined,
      resolve: () => done(undefined),
      reject: (error) => {
        // A link that ended is handled elsewhere.
        if (!(error instanceof ConnectionLostError)) done(as_error(error));
      },
    };
    this.#calls.add(call);
    this.#write_call(call);
  }

  // -- Links ----------------------------------------------------------------------------------------------------------

  #start_connecting(): void {
    this.#phase = 'connecting';
    const wait = this.#retries.next_wait_ms();
    if (wait === 0) this.#attempt();
    else this.#timer = setTimeout(() => this.#attempt(), wait);
  }

  #attempt(): void {
    this.#timer = setTimeout(() => this.#on_slow_handshake(), this.#settings.handshake_timeout * 1000);
    // A link that was given up still has events.
    let current: Link | undefined;
    const is_current = () => this.#link !== undefined && this.#link === current;
    const events: LinkEvents = {
      opened: () => is_current() && this.#phase === 'connecting' && this.#on_opened(),
      data: (bytes) => is_current() && this.#on_data(bytes),
      closed: (reason, error) => {
        if (!is_current()) return;
        if (this.#phase === 'connecting') this.#on_failed(error ?? new ConnectionLostError(reason));
        else this.#end_link({ kind: reason.startsWith('the link broke') ? 'lost' : 'peer', text: reason }, false);
      },
    };
    try {
      this.#link = current = this.#connector(this.address, events, this.#settings);
    } catch (error) {
      this.#on_failed(as_error(error));
    }
  }

  #on_slow_handshake(): void {
    const link = this.#link;
    if (this.#phase !== 'connecting') {
      return this.#end_link({ kind: 'handshake', text: 'the handshake took too long' }, true);
    }
    this.#on_failed(new ConnectionTimeoutError(`cannot connect to ${this.address} in time`, { retryable: true }));
    link?.end('', true);
  }

  #on_failed(error: YueError): void {
    clearTimeout(this.#timer);
    this.#link = undefined;
    if (this.#retries.after_failure(error)) return this.#start_connecting();
    this.#rest();
    this.#fail_held(() => copy_of(error));
  }

  #rest(): void {
    this.#phase = 'idle';
    this.#retries.rest();
  }

  #on_opened(): void {
    this.#counts.links += 1;
    this.#phase = 'greeting';
    this.#output = new Output(this.#link!, () => {
      for (const releases of this.#references.take_releases()) this.#send_notification('$yue/release', [releases]);
    });
    this.#events.emit('open');
    if (this.#phase !== 'greeting') return;
    if (this.#settings.legacy) return void this.#on_granted(undefined);
    // The number identifies the link for tools at both ends.
    this.#control_request('$yue/hello', [VERSION, { id: random_id() }], (error) => {
      if (error) void this.#on_granted(undefined);
      else this.#peer_is_yue = true;
    });
  }

  async #on_granted(value: unknown): Promise<void> {
    if (this.#phase !== 'greeting') return;
    this.#phase = 'accepting';
    const link = this.#link;
    if (this.#settings.accept) {
      let failure: string | undefined;
      try {
        if ((await this.#settings.accept(this, value)) === false) failure = 'accept returned false';
      } catch (error) {
        failure = as_error(error).msg;
        this.#settings.log('yue: accept failed', error);
      }
      if (this.#link !== link || this.#phase !== 'accepting') return;
      if (failure !== undefined) {
        return this.#end_link({ kind: 'handshake', text: `a callback of the connection failed: ${failure}` }, true);
      }
    }
    clearTimeout(this.#timer);
    this.#phase = 'up';
    this.#retries.granted();
    if (this.#peer_is_yue) this.#keepalive.begin();
    this.#write_held();
    this.#events.emit('accept', value);
  }

  /** The server's reason: of a refusal, or once the connection is up, of its end. */
  #on_refused(error: YueError): void {
    if (this.#phase === 'up') {
      if (this.#peer_is_yue) this.#end_link({ kind: 'peer', text: `closed by the peer: ${error.msg}` }, false);
    } else {
      this.#end_link({ kind: 'refused', text: `the connection was not granted: ${error.msg}` }, false);
    }
  }

  #end_link(reason: Reason, fault: boolean, told = fault ? reason.text : ''): void {
    const link = this.#link;
    if (!link) return;
    clearTimeout(this.#timer);
    this.#output?.flush();
    this.#link = this.#output = undefined;
    const was_connecting = this.#phase === 'connecting';
    this.#phase = reason.kind === 'local' ? 'closed' : 'ending';
    this.#keepalive.end();
    this.#peer_is_yue = false;
    this.#input = new Input(this.#settings.message_max);
    link.end(told, fault);
    this.#references.end_link();
    for (const call of this.#calls.take_written()) call.reject(lost_call(reason));
    if (this.#phase === 'closed') this.#fail_held(() => this.#closed_error());
    if (was_connecting) return;
    this.#events.emit('close', reason.text);
    void this.#run_close(reason);
  }

  async #run_close(reason: Reason): Promise<void> {
    let again: unknown;
    try {
      again = await this.#settings.close?.(this, reason.text);
    } catch (error) {
      again = false;
      this.#settings.log('yue: close failed', error);
    }
    if (this.#phase !== 'ending') return;
    again ??= this.#retries.after_end(reason);
    if (!again) {
      this.#rest();
      return this.#fail_held(() => unsent_call(reason));
    }
    this.#retries.begin(reason);
    this.#start_connecting();
  }

  // -- Reading --------------------------------------------------------------------------------------------------------

  #on_data(bytes: Uint8Array): void {
    this.#counts.bytes_in += bytes.length;
    this.#keepalive.heard();
    const link = this.#link;
    const input = this.#input;
    try {
      input.push(bytes, (message) => {
        this.#on_message(message);
        return this.#link === link;
      });
    } catch (error) {
      if (!(error instanceof Malformed)) throw error;
      this.#on_malformed(error, input.rest);
    }
  }

  #on_malformed(error: Malformed, bytes: Uint8Array): void {
    const head = peek(bytes, 0);
    if (error.too_large && head?.kind === 1) this.#calls.take(head.id)?.reject(new MessageTooLargeError(error.message));
    this.#end_link({ kind: 'protocol', text: `${error.message}: received "${shown(bytes)}"` }, true);
  }

  #on_message({ bytes, wide, depth, memory }: Message): void {
    let message: unknown;
    try {
      // The arrays of the message and of its arguments come on top.
      if (depth > this.#settings.nesting_max + 2) {
        throw new Error(`values are nested deeper than nesting_max, ${this.#settings.nesting_max}`);
      }
      if (memory > DECODED_FACTOR * this.#settings.message_max) throw new Error('its values take too much memory');
      message = this.#codec.decode(bytes, wide);
    } catch (error) {
      return this.#on_unreadable(bytes, (error as Error).message);
    }
    const [kind, first, second, third, fourth] = message as unknown[];
    const length = (message as unknown[]).length;
    if (kind === 0 && length >= 4 && is_id(first) && is_method(second) && Array.isArray(third)) {
      const left = (fourth as { t?: unknown } | null | undefined)?.t;
      return this.#on_request(first, second, third, bytes.length, left);
    }
    if (kind === 1 && length >= 4 && is_id(first)) return this.#on_answer(first, second, third, fourth);
    if (kind === 2 && length >= 3 && is_method(first) && Array.isArray(second)) {
      return this.#on_notification(first, second, bytes.length);
    }
    this.#on_malformed(new Malformed('a message is neither request nor answer nor notification'), bytes);
  }

  /** A message whose end is known, but whose values cannot be accepted: an error of that call alone. */
  #on_unreadable(bytes: Uint8Array, why: string): void {
    const head = peek(bytes, 0);
    const error = new MessageRefusedError(`the message was not accepted: ${why}`);
    if (head?.kind === 0) this.#answer(head.id, { error: to_wire(error, false) });
    else if (head?.kind === 1) this.#calls.take(head.id)?.reject(error);
  }

  #on_answer(id: number, error: unknown, result: unknown, count: unknown): void {
    const call = this.#calls.take(id);
    if (!call) return;
    if (error !== null && error !== undefined) {
      const failure = from_wire(error);
      // The server counts from the same remaining time, and its answer may come before the timer here.
      const late = failure.is_a('TimeoutError') && performance.now() >= call.deadline;
      return call.reject(late ? this.#timed_out(true) : failure);
    }
    // yue counts results that are not one.
    const counted = typeof count === 'number' && Array.isArray(result);
    call.resolve(result, counted ? result.length : undefined);
  }

  #on_request(id: number, method: unknown, params: unknown[], bytes: number, left: unknown): void {
    const link = this.#link;
    if (typeof method === 'string' && method.startsWith('$yue/')) {
      if (method === '$yue/ping') return this.#answer(id, { results: [null] });
      if (method === '$yue/describe' && this.#settings.describe) {
        return this.#answer(id, { results: [describe(this.#serving.layers)] });
      }
    }
    this.#counts.requests += 1;
    this.#serving.run({ id, method, params, bytes, left }, (answer) => {
      if (this.#link === link) this.#answer(id, answer);
    });
  }

  #on_notification(method: unknown, params: unknown[], bytes: number): void {
    switch (method) {
      case '$yue/granted':
        return void this.#on_granted(params[0]);
      case '$yue/refused':
        return this.#on_refused(from_wire(params[0]));
      case '$yue/release':
        return this.#references.release(params[0]);
    }
    if (typeof method === 'string' && method.startsWith('$yue/')) return;
    this.#counts.requests += 1;
    this.#serving.run({ id: undefined, method, params, bytes, left: undefined }, () => {});
  }

  /** Answers a request. An answer that cannot be sent becomes an error. */
  #answer(id: number, answer: Answer): void {
    // Answers do not wait, so a peer that sends requests and reads nothing would fill the memory.
    const { output_max, message_max } = this.#settings;
    if (this.#output!.queued > output_max + message_max) {
      return this.#end_link({ kind: 'lost', text: 'the peer reads nothing' }, true);
    }
    try {
      this.#write_answer(id, answer);
    } catch (failure) {
      this.#settings.log('yue: an answer cannot be sent', failure);
      this.#write_answer(id, this.#serving.unsendable(failure));
    }
  }

  #write_answer(id: number, { error, results = [] }: Answer): void {
    const big = this.#codec.check(error ?? results, error ? 'error' : 'results');
    const count = results.length;
    const message = error ? [1, id, error, null]
      : count === 1 ? [1, id, null, results[0]]
        : this.#peer_is_yue ? [1, id, null, results, count]
          : [1, id, null, count === 0 ? null : results];
    const { encoded, carried } = this.#references.carry(() => this.#codec.encode(message, big));
    const refusal = encoded.length > this.#settings.message_max ? this.#too_large(encoded.length)
      : carried.exports.length > 0 && !this.#peer_is_yue
        ? new ArgumentError('cannot send a function: the peer is not a yue peer') : undefined;
    if (refusal) {
      this.#references.drop(carried);
      throw refusal;
    }
    this.#references.sent(carried);
    this.#output!.write(encoded);
  }
}

const is_id = (value: unknown): value is number =>
  typeof value === 'number' && Number.isInteger(value) && value >= 0 && value < 2 ** 32;

const is_method = (value: unknown) =>
  typeof value === 'string' || typeof value === 'number' || typeof value === 'bigint' || value instanceof Uint8Array;
