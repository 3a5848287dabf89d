// yue-client, MIT OR Apache-2.0. With @msgpack/msgpack, Copyright 2019 The MessagePack Community,
// ISC: https://github.com/msgpack/msgpack-javascript/blob/main/LICENSE
// src/node.ts
import { createRequire } from "node:module";

// src/errors.ts
var YueError = class extends Error {
  /** The message alone; `message` is the same. */
  msg;
  value;
  retryable;
  traceback;
  constructor(msg, details = {}) {
    super(msg);
    this.msg = msg;
    this.value = details.value;
    this.retryable = details.retryable ?? false;
    this.traceback = details.traceback;
    if (details.code !== void 0) this.code = details.code;
  }
  /** Whether the error is of that type, or of one below it. */
  is_a(type) {
    let prototype = Object.getPrototypeOf(this);
    while (prototype && prototype !== Error.prototype) {
      if (prototype.type === type) return true;
      prototype = Object.getPrototypeOf(prototype);
    }
    return type === "Error";
  }
};
var BY_NAME = /* @__PURE__ */ new Map();
var BY_CODE = /* @__PURE__ */ new Map();
function add(name, code, type) {
  Object.assign(type.prototype, { type: name, name, code });
  Object.defineProperty(type, "name", { value: name });
  BY_NAME.set(name, type);
  BY_CODE.set(code, type);
  return type;
}
var below = (parent, name, code) => add(name, code, class extends parent {
});
add("Error", -1, YueError);
var RPCError = below(YueError, "RPCError", -100);
var TimeoutError = below(RPCError, "TimeoutError", -101);
var CancelledError = below(RPCError, "CancelledError", -102);
var RuntimeError = below(RPCError, "RuntimeError", -103);
var ClientError = below(RPCError, "ClientError", -200);
var TransportError = below(ClientError, "TransportError", -210);
var NetworkUnreachableError = below(TransportError, "NetworkUnreachableError", -211);
var ConnectionRefusedError = below(TransportError, "ConnectionRefusedError", -212);
var ConnectionTimeoutError = below(TransportError, "ConnectionTimeoutError", -213);
var ConnectionLostError = below(TransportError, "ConnectionLostError", -214);
var AddressError = below(TransportError, "AddressError", -215);
var TLSError = below(TransportError, "TLSError", -216);
var MessageRefusedError = below(ClientError, "MessageRefusedError", -220);
var MessageTooLargeError = below(MessageRefusedError, "MessageTooLargeError", -221);
var CallError = below(ClientError, "CallError", -230);
var NoMethodError = below(CallError, "NoMethodError", -231);
var ArgumentError = below(CallError, "ArgumentError", -232);
var NotGrantedError = below(CallError, "NotGrantedError", -233);
var ServerError = below(RPCError, "ServerError", -300);
var ServerBusyError = below(ServerError, "ServerBusyError", -301);
var QueueFullError = below(ServerError, "QueueFullError", -302);

// src/calls.ts
var OVERHEAD_BYTES = 64;
var TIMER_MAX_MS = 2 ** 31 - 1;
var Calls = class {
  #waiting = /* @__PURE__ */ new Map();
  #held = /* @__PURE__ */ new Set();
  #held_bytes = 0;
  #next_id = 0;
  #limit;
  #held_max;
  #expire;
  constructor(limit, held_max, expire) {
    this.#limit = limit;
    this.#held_max = held_max;
    this.#expire = expire;
  }
  /** The number of calls that wait for answers or for the link. */
  get in_flight() {
    return this.#waiting.size;
  }
  /** A msgid that no call has which still waits. `own`: for a request of this library, which no limit stops. */
  take_id(own2 = false) {
    if (!own2 && this.#waiting.size >= this.#limit) {
      const text2 = `${this.#limit} calls, the limit in_flight_max, wait for answers`;
      throw new MessageRefusedError(text2, { retryable: true });
    }
    while (this.#waiting.has(this.#next_id)) this.#next_id = this.#next_id + 1 >>> 0;
    const id = this.#next_id;
    this.#next_id = id + 1 >>> 0;
    return id;
  }
  add(call) {
    if (call.id !== void 0) this.#waiting.set(call.id, call);
    const left = call.deadline - performance.now();
    if (left < TIMER_MAX_MS) call.timer = setTimeout(() => this.#expire(call), Math.max(0, Math.ceil(left)));
  }
  /** Keeps a call until the link is up. Throws if too much is held; one call of any size is. */
  hold(call, address) {
    const bytes = call.body.length + OVERHEAD_BYTES;
    if (this.#held.size > 0 && this.#held_bytes + bytes > this.#held_max) {
      const text2 = `calls of ${this.#held_max} bytes, the limit held_max, wait for the connection to ${address}`;
      throw new QueueFullError(text2, { retryable: true });
    }
    this.#held_bytes += bytes;
    this.#held.add(call);
  }
  /** The held calls, in the order in which they were made; they are not held any more. */
  take_held() {
    const held = [...this.#held];
    this.#held.clear();
    this.#held_bytes = 0;
    return held;
  }
  /** The call that an answer is for; undefined for an answer that comes too late. */
  take(id) {
    const call = this.#waiting.get(id);
    if (!call?.written) return void 0;
    this.remove(call);
    return call;
  }
  /** Nobody waits for the call any more. */
  remove(call) {
    clearTimeout(call.timer);
    if (call.id !== void 0 && this.#waiting.get(call.id) === call) this.#waiting.delete(call.id);
    if (this.#held.delete(call)) this.#held_bytes -= call.body.length + OVERHEAD_BYTES;
  }
  /** Returns the calls that were written, of which none will be answered. */
  take_written() {
    const written = [...this.#waiting.values()].filter((call) => call.written);
    for (const call of written) this.remove(call);
    return written;
  }
};
var timeout_error = (text2, written) => new TimeoutError(text2, { retryable: !written });
function check_seconds(seconds) {
  if (typeof seconds === "number" && seconds >= 0) return seconds;
  throw new ArgumentError(`a call takes the seconds that it may last as a number, 0 or more, not ${String(seconds)}`);
}

// src/error_values.ts
var TEXT_MAX = 65536;
var text = (value) => typeof value === "string" ? value.slice(0, TEXT_MAX) : void 0;
function from_wire(wire) {
  if (typeof wire === "string") return new RPCError(wire);
  if (!Array.isArray(wire) || typeof wire[0] !== "number" || typeof wire[1] !== "string") {
    return new RPCError("the peer answered with an error of a foreign form", { value: wire });
  }
  const [code, message, data] = wire;
  const details = typeof data === "object" && data !== null ? { ...data } : {};
  const type = BY_NAME.get(text(details.type) ?? "") ?? BY_CODE.get(code) ?? RPCError;
  return new type(message, {
    code,
    value: details.value,
    retryable: details.retryable === true,
    traceback: text(details.traceback)
  });
}
function to_wire(failure, with_traceback) {
  const error = as_error(failure);
  const data = { type: error.type };
  if (error.retryable) data.retryable = true;
  if (error.value !== void 0) data.value = error.value;
  if (with_traceback) data.traceback = text(failure?.stack ?? error.stack);
  return [error.code, text(error.msg), data];
}
function as_error(failure) {
  if (failure instanceof YueError) return failure;
  if (failure instanceof Error) return new RuntimeError(failure.message);
  if (typeof failure === "string") return new RuntimeError(failure);
  return new RuntimeError("the handler threw a value that is not an error", { value: failure });
}

// src/events.ts
var Events = class {
  #listeners = /* @__PURE__ */ new Map();
  #log;
  constructor(log) {
    this.#log = log;
  }
  on(event, listener) {
    const all = this.#listeners.get(event) ?? /* @__PURE__ */ new Set();
    this.#listeners.set(event, all.add(listener));
    return () => void all.delete(listener);
  }
  emit(event, value) {
    for (const listener of [...this.#listeners.get(event) ?? []]) {
      try {
        listener(value);
      } catch (error) {
        this.#log(`yue: a listener of ${event} failed`, error);
      }
    }
  }
};

// src/scanner.ts
var Malformed = class extends Error {
  constructor(message, too_large = false) {
    super(message);
    this.too_large = too_large;
  }
};
var DEPTH_MAX = 4096;
var CONTAINER_BYTES = 64;
var VALUE_BYTES = 16;
var Scanner = class {
  constructor(message_max) {
    this.message_max = message_max;
  }
  /** The position behind the last value that was scanned, from the start of the message. */
  #at = 0;
  /** The values that are missing in the innermost container, and in those around it. */
  #missing = 1;
  #outer = [];
  #deepest = 0;
  /** Of the message that was found: whether it has integers of 64 bits, which are decoded as bigint. */
  wide = false;
  /** An estimate of the memory that its values take. */
  memory = 0;
  /** The nesting of the message that was found. */
  get depth() {
    return this.#deepest;
  }
  /** Returns the end of the message that begins at `start`, or -1 if more bytes are needed. */
  find(bytes, start2) {
    if (this.#at === 0) {
      this.wide = false;
      this.memory = this.#deepest = 0;
    }
    while (this.#missing > 0) {
      const position = start2 + this.#at;
      if (position >= bytes.length) return -1;
      const head = bytes[position];
      if (this.#at === 0 && !(head >= 144 && head < 160 || head === 220 || head === 221)) {
        throw new Malformed("a message must be an array");
      }
      const header = header_bytes(head);
      if (position + header > bytes.length) return -1;
      const size = header > 1 ? read_uint(bytes, position + 1, length_bytes(head)) : 0;
      this.#take(head, header, size);
    }
    const end = start2 + this.#at;
    if (end > bytes.length) return -1;
    this.#at = 0;
    this.#missing = 1;
    return end;
  }
  #take(head, header, size) {
    let payload = 0;
    let values = 0;
    if (head >= 128 && head < 144) values = 2 * (head & 15);
    else if (head >= 144 && head < 160) values = head & 15;
    else if (head >= 160 && head < 192) payload = head & 31;
    else if (head >= 196 && head <= 198) payload = size;
    else if (head >= 199 && head <= 201) payload = size + 1;
    else if (head >= 202 && head <= 211) {
      payload = FIXED[head - 202];
      this.wide ||= head === 207 || head === 211;
    } else if (head >= 212 && head <= 216) payload = 1 + (1 << head - 212);
    else if (head >= 217 && head <= 219) payload = size;
    else if (head === 220 || head === 221) values = size;
    else if (head === 222 || head === 223) values = 2 * size;
    else if (head === 193) throw new Malformed("the byte 0xc1 is not msgpack");
    this.#at += header + payload;
    if (this.#at + values > this.message_max) {
      throw new Malformed(`a message is larger than message_max, ${this.message_max} bytes`, true);
    }
    this.memory += VALUE_BYTES + payload;
    this.#missing -= 1;
    if (values > 0) {
      this.memory += CONTAINER_BYTES;
      this.#outer.push(this.#missing);
      this.#missing = values;
      this.#deepest = Math.max(this.#deepest, this.#outer.length);
      if (this.#outer.length > DEPTH_MAX) throw new Malformed(`a message is nested deeper than ${DEPTH_MAX} levels`);
    }
    while (this.#missing === 0 && this.#outer.length > 0) this.#missing = this.#outer.pop();
  }
};
var FIXED = [4, 8, 1, 2, 4, 8, 1, 2, 4, 8];
function length_bytes(head) {
  if (head >= 196 && head <= 201) return 1 << (head - 196) % 3;
  if (head >= 217 && head <= 219) return 1 << head - 217;
  if (head >= 220 && head <= 223) return head & 1 ? 4 : 2;
  return 0;
}
var header_bytes = (head) => 1 + length_bytes(head);
function read_uint(bytes, at, count) {
  let value = 0;
  for (let i = 0; i < count; i += 1) value = value * 256 + bytes[at + i];
  return value;
}
function peek(bytes, start2) {
  const first = bytes[start2] === 220 ? start2 + 3 : bytes[start2] === 221 ? start2 + 5 : start2 + 1;
  const kind = bytes[first];
  const head = bytes[first + 1];
  const count = head >= 204 && head <= 206 ? 1 << head - 204 : 0;
  if (!(kind <= 1) || first + 2 + count > bytes.length) return void 0;
  if (head < 128) return { kind, id: head };
  return count > 0 ? { kind, id: read_uint(bytes, first + 2, count) } : void 0;
}

// src/input.ts
var FIRST_CAPACITY = 4096;
var Input = class {
  #scanner;
  #bytes = new Uint8Array(0);
  #length = 0;
  constructor(message_max) {
    this.#scanner = new Scanner(message_max);
  }
  /** Passes each message that is complete now to `handle`, while that returns true. Throws `Malformed`. */
  push(data, handle) {
    this.#append(data);
    const scanner = this.#scanner;
    const whole = this.rest;
    let start2 = 0;
    try {
      for (let end; (end = scanner.find(whole, start2)) >= 0; ) {
        const { wide, depth, memory } = scanner;
        const bytes = whole.subarray(start2, end);
        start2 = end;
        if (!handle({ bytes, wide, depth, memory })) return;
      }
    } finally {
      if (start2 > 0) {
        this.#bytes = whole.slice(start2);
        this.#length = this.#bytes.length;
      }
    }
  }
  /** The bytes that belong to no message yet. */
  get rest() {
    return this.#bytes.subarray(0, this.#length);
  }
  #append(data) {
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
};

// src/keepalive.ts
var PARTS = 5;
var PARTS_UNTIL_LOST = 3;
var Keepalive = class {
  #timer;
  #last_heard = 0;
  #last_tick = 0;
  #pinged_at;
  #seconds;
  #actions;
  constructor(seconds, actions) {
    this.#seconds = seconds;
    this.#actions = actions;
  }
  begin() {
    if (this.#seconds === false) return;
    const part = this.#seconds * 1e3 / PARTS;
    this.#last_tick = this.#last_heard = performance.now();
    this.#pinged_at = void 0;
    this.#timer = setInterval(() => this.#tick(part), part);
    this.#timer.unref?.();
  }
  end() {
    clearInterval(this.#timer);
  }
  heard() {
    this.#last_heard = performance.now();
    this.#pinged_at = void 0;
  }
  #tick(part) {
    const now = performance.now();
    if (now - this.#last_tick > 2 * part) this.#pinged_at = void 0;
    this.#last_tick = now;
    if (this.#pinged_at !== void 0 && now - this.#pinged_at >= PARTS_UNTIL_LOST * part) return this.#actions.lost();
    if (this.#pinged_at === void 0 && now - this.#last_heard >= part) {
      this.#pinged_at = now;
      this.#actions.ping();
    }
  }
};

// src/output.ts
var BATCH = 16384;
var Output = class {
  #parts = [];
  #length = 0;
  #link;
  #before_flush;
  /** `before_flush` may write more. */
  constructor(link2, before_flush) {
    this.#link = link2;
    this.#before_flush = before_flush;
  }
  /** Bytes that wait to leave. */
  get queued() {
    return this.#length + this.#link.buffered();
  }
  /** Writes a message, in pieces. */
  write(...parts) {
    const bytes = parts.reduce((sum, part) => sum + part.length, 0);
    if (this.#length + bytes > BATCH) this.#send();
    if (this.#length === 0) queueMicrotask(() => this.flush());
    this.#parts.push(...parts);
    this.#length += bytes;
  }
  flush() {
    this.#before_flush();
    this.#send();
  }
  #send() {
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
};

// src/procedures.ts
var nodes = /* @__PURE__ */ new WeakMap();
var PREFIXES = ["async_", "timed_", "notify_"];
function parse(name) {
  const prefixes = /* @__PURE__ */ new Set();
  if (name.startsWith("=")) return { rest: name.slice(1), prefixes };
  for (; ; ) {
    const prefix = PREFIXES.find((prefix2) => name.startsWith(prefix2) && name.length > prefix2.length);
    if (!prefix || prefixes.has(prefix)) return { rest: name, prefixes };
    prefixes.add(prefix);
    name = name.slice(prefix.length);
  }
}
function start({ connection: connection2, early, path, prefixes }, args) {
  if (path === "") throw new ArgumentError("name a procedure: c.name(\u2026)");
  const timed = prefixes.has("timed_");
  const timeout = timed ? check_seconds(args[0]) : void 0;
  const rest = timed ? args.slice(1) : args;
  if (prefixes.has("notify_")) {
    return connection2.start_notification(path, rest, { early, ...timed && { timeout } });
  }
  return connection2.start(path, rest, { early, timeout });
}
var handler = {
  get(target, name) {
    if (typeof name === "symbol" || name === "then") return void 0;
    const node = nodes.get(target);
    const { rest, prefixes } = parse(name);
    const around = node.path === "" ? "" : `${node.raw}.`;
    return make({ ...node, path: around + rest, raw: around + (name.startsWith("=") ? rest : name), prefixes });
  },
  apply(target, _this, args) {
    const node = nodes.get(target);
    if (node.prefixes.has("notify_")) return start(node, args);
    try {
      return start(node, args);
    } catch (error) {
      return Promise.reject(error);
    }
  },
  has: () => false,
  ownKeys: () => [],
  getOwnPropertyDescriptor: () => void 0,
  set() {
    throw new ArgumentError("the procedures of a connection cannot be assigned to");
  },
  defineProperty() {
    throw new ArgumentError("the procedures of a connection cannot be assigned to");
  }
};
function make(node) {
  const target = () => {
  };
  nodes.set(target, node);
  const proxy = new Proxy(target, handler);
  nodes.set(proxy, node);
  return proxy;
}
function procedures(connection2, early) {
  return make({ connection: connection2, early, path: "", raw: "", prefixes: /* @__PURE__ */ new Set() });
}
var is_procedure = (value) => nodes.has(value);
function connection(procedures2) {
  const node = nodes.get(procedures2);
  if (!node) throw new ArgumentError("connection() takes the procedures that open() returned");
  return node.connection;
}

// src/reasons.ts
function lost_call(reason, retryable = false) {
  return new ConnectionLostError(`the connection was lost before the answer came: ${reason.text}`, { retryable });
}
function unsent_call(reason) {
  switch (reason.kind) {
    case "refused":
      return new NotGrantedError(reason.text, { retryable: true });
    case "handshake":
      return new NotGrantedError(`the connection was not granted: ${reason.text}`, { retryable: true });
    case "protocol":
      return new ConnectionLostError(`the peer does not speak msgpack-rpc: ${reason.text}`, { retryable: true });
    default:
      return lost_call(reason, true);
  }
}
function copy_of(error) {
  const type = error.constructor;
  return new type(error.msg, { retryable: error.retryable });
}
function shown(bytes) {
  return [...bytes.subarray(0, 40)].map((byte) => byte >= 32 && byte < 127 ? String.fromCharCode(byte) : `\\x${byte.toString(16).padStart(2, "0")}`).join("");
}

// src/references.ts
var RELEASES_PER_MESSAGE = 32;
var imports_of = /* @__PURE__ */ new WeakMap();
var collected = new FinalizationRegistry((entry) => entry.owner.record_release(entry));
function random_id() {
  const [high, low] = crypto.getRandomValues(new Uint32Array(2));
  return (high & 65535) * 2 ** 32 + low + 1;
}
var References = class {
  #next_id = random_id();
  #exports = /* @__PURE__ */ new Map();
  #by_value = /* @__PURE__ */ new Map();
  #imports = /* @__PURE__ */ new Map();
  #releases = [];
  #carried;
  /** Counts links. */
  epoch = 0;
  #limit;
  #call;
  #refuses;
  #flush_releases;
  constructor(limit, call, refuses, flush_releases) {
    this.#limit = limit;
    this.#call = call;
    this.#refuses = refuses;
    this.#flush_releases = flush_releases;
  }
  /** The number of this side's functions that the peer holds. */
  get held() {
    return this.#exports.size;
  }
  /** Runs an encoder, and returns the functions that it sent. If it throws, they are taken back. */
  carry(encode) {
    const before = this.#carried;
    const carried = { exports: [], imports: [] };
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
  send(value) {
    const refusal = this.#refuses(value);
    if (refusal) throw new ArgumentError(refusal);
    const carried = this.#carried;
    const entry = imports_of.get(value);
    if (entry) {
      if (entry.owner !== this) {
        throw new ArgumentError("a function of another connection cannot be sent: wrap it, (...args) => f(...args)");
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
  sent(carried) {
    for (const entry of carried.exports) {
      entry.held -= 1;
      entry.crossings += 1;
    }
  }
  /** The message is not sent. */
  drop(carried) {
    for (const entry of carried.exports) {
      entry.held -= 1;
      this.#forget_unused(entry);
    }
  }
  receive({ owned_by_sender, id }) {
    if (!owned_by_sender) return this.exported(id);
    const known = this.#imports.get(id);
    const alive = known?.callable?.deref();
    if (known && alive) {
      known.crossings += 1;
      return alive;
    }
    const entry = { owner: this, epoch: this.epoch, id, crossings: 1, callable: void 0 };
    const callable = (...args) => this.#call(entry, args);
    entry.callable = new WeakRef(callable);
    imports_of.set(callable, entry);
    this.#imports.set(id, entry);
    collected.register(callable, entry);
    return callable;
  }
  /** The function of this side that the peer names by `id`. */
  exported(id) {
    const entry = this.#exports.get(id);
    return entry && entry.crossings > 0 ? entry.value : void 0;
  }
  /** The peer returns crossings. It may claim more than it holds. */
  release(pairs) {
    if (!Array.isArray(pairs)) return;
    for (const pair of pairs) {
      if (!Array.isArray(pair)) continue;
      const entry = this.#exports.get(pair[0]);
      const count = Number(pair[1]);
      if (!entry || !(count > 0)) continue;
      entry.crossings = Math.max(0, entry.crossings - count);
      this.#forget_unused(entry);
    }
  }
  #forget_unused(entry) {
    if (entry.crossings > 0 || entry.held > 0 || this.#exports.get(entry.id) !== entry) return;
    this.#exports.delete(entry.id);
    this.#by_value.delete(entry.value);
  }
  /** Throws if the function came over a link that is lost. */
  check_fresh(entry) {
    if (entry.epoch === this.epoch) return;
    const text2 = "the function belonged to a connection that is lost; get it from the peer again";
    throw new ConnectionLostError(text2, { retryable: true });
  }
  record_release(entry) {
    if (entry.epoch !== this.epoch) return;
    if (this.#imports.get(entry.id) === entry) this.#imports.delete(entry.id);
    this.#releases.push([entry.id, entry.crossings]);
    if (this.#releases.length === 1) queueMicrotask(this.#flush_releases);
  }
  /** The releases that are due, as arguments of messages. */
  take_releases() {
    const messages = [];
    while (this.#releases.length > 0) messages.push(this.#releases.splice(0, RELEASES_PER_MESSAGE));
    return messages;
  }
  /** The link has ended, and every reference with it, except for what held calls will carry. */
  end_link() {
    this.epoch += 1;
    this.#imports.clear();
    this.#releases = [];
    this.#next_id = random_id();
    for (const entry of [...this.#exports.values()]) {
      entry.crossings = 0;
      this.#forget_unused(entry);
    }
  }
};

// src/retries.ts
var FIRST_MS = 50;
var LAST_MS = 5e3;
var GOOD_LINK_MS = 5e3;
var GARBLED_MAX = 3;
var Retries = class {
  /** A link was lost and is made again, however often that fails. */
  #keep_trying = false;
  /** Attempts since the last good link. */
  #attempts = 0;
  #garbled = 0;
  /** The time when the present link was granted. */
  #up_since;
  /** Why there is no link: calls that time out before the next one report it. */
  trouble;
  #settings;
  constructor(settings2) {
    this.#settings = settings2;
  }
  /** Counts an attempt. Returns the wait before it. */
  next_wait_ms() {
    const longest = Math.min(LAST_MS, FIRST_MS * 2 ** (this.#attempts - 1));
    const wait = this.#attempts === 0 ? 0 : longest * (0.5 + Math.random() / 2);
    this.#attempts += 1;
    return wait;
  }
  granted() {
    this.#keep_trying = false;
    this.#garbled = 0;
    this.trouble = void 0;
    this.#up_since = performance.now();
  }
  /** The next call starts from the beginning. */
  rest() {
    this.#keep_trying = false;
    this.#attempts = this.#garbled = 0;
    this.#up_since = void 0;
  }
  /** Whether to try again after an attempt that failed. */
  after_failure(error) {
    const hopeless = error.is_a("AddressError") || error.is_a("TLSError") && !this.#keep_trying;
    this.trouble = error.msg;
    return !hopeless && (this.#keep_trying || this.#settings.retry);
  }
  /** Whether to make another link after one that ended, where the program leaves that open. It helps against one that
   * broke, not against a refusal. */
  after_end({ kind }) {
    if (!this.#settings.reconnect || kind === "refused" || kind === "handshake") return false;
    if (kind !== "protocol" || this.#up_since !== void 0 || this.#settings.retry) return true;
    this.#garbled += 1;
    return this.#garbled < GARBLED_MAX;
  }
  /** A link ended, and another one is made. */
  begin({ text: text2 }) {
    if (this.#up_since !== void 0 && performance.now() - this.#up_since >= GOOD_LINK_MS) this.#attempts = 0;
    this.#up_since = void 0;
    this.#attempts = Math.max(1, this.#attempts);
    this.#keep_trying = true;
    this.trouble = text2;
  }
};

// node_modules/@msgpack/msgpack/dist.esm/utils/utf8.mjs
function utf8Count(str) {
  const strLength = str.length;
  let byteLength = 0;
  let pos = 0;
  while (pos < strLength) {
    let value = str.charCodeAt(pos++);
    if ((value & 4294967168) === 0) {
      byteLength++;
      continue;
    } else if ((value & 4294965248) === 0) {
      byteLength += 2;
    } else {
      if (value >= 55296 && value <= 56319) {
        if (pos < strLength) {
          const extra = str.charCodeAt(pos);
          if ((extra & 64512) === 56320) {
            ++pos;
            value = ((value & 1023) << 10) + (extra & 1023) + 65536;
          }
        }
      }
      if ((value & 4294901760) === 0) {
        byteLength += 3;
      } else {
        byteLength += 4;
      }
    }
  }
  return byteLength;
}
function utf8EncodeJs(str, output, outputOffset) {
  const strLength = str.length;
  let offset = outputOffset;
  let pos = 0;
  while (pos < strLength) {
    let value = str.charCodeAt(pos++);
    if ((value & 4294967168) === 0) {
      output[offset++] = value;
      continue;
    } else if ((value & 4294965248) === 0) {
      output[offset++] = value >> 6 & 31 | 192;
    } else {
      if (value >= 55296 && value <= 56319) {
        if (pos < strLength) {
          const extra = str.charCodeAt(pos);
          if ((extra & 64512) === 56320) {
            ++pos;
            value = ((value & 1023) << 10) + (extra & 1023) + 65536;
          }
        }
      }
      if ((value & 4294901760) === 0) {
        output[offset++] = value >> 12 & 15 | 224;
        output[offset++] = value >> 6 & 63 | 128;
      } else {
        output[offset++] = value >> 18 & 7 | 240;
        output[offset++] = value >> 12 & 63 | 128;
        output[offset++] = value >> 6 & 63 | 128;
      }
    }
    output[offset++] = value & 63 | 128;
  }
}
var sharedTextEncoder = new TextEncoder();
var TEXT_ENCODER_THRESHOLD = 50;
function utf8EncodeTE(str, output, outputOffset) {
  sharedTextEncoder.encodeInto(str, output.subarray(outputOffset));
}
function utf8Encode(str, output, outputOffset) {
  if (str.length > TEXT_ENCODER_THRESHOLD) {
    utf8EncodeTE(str, output, outputOffset);
  } else {
    utf8EncodeJs(str, output, outputOffset);
  }
}
var CHUNK_SIZE = 4096;
function utf8DecodeJs(bytes, inputOffset, byteLength) {
  let offset = inputOffset;
  const end = offset + byteLength;
  const units = [];
  let result = "";
  while (offset < end) {
    const byte1 = bytes[offset++];
    if ((byte1 & 128) === 0) {
      units.push(byte1);
    } else if ((byte1 & 224) === 192) {
      const byte2 = bytes[offset++] & 63;
      units.push((byte1 & 31) << 6 | byte2);
    } else if ((byte1 & 240) === 224) {
      const byte2 = bytes[offset++] & 63;
      const byte3 = bytes[offset++] & 63;
      units.push((byte1 & 31) << 12 | byte2 << 6 | byte3);
    } else if ((byte1 & 248) === 240) {
      const byte2 = bytes[offset++] & 63;
      const byte3 = bytes[offset++] & 63;
      const byte4 = bytes[offset++] & 63;
      let unit = (byte1 & 7) << 18 | byte2 << 12 | byte3 << 6 | byte4;
      if (unit > 65535) {
        unit -= 65536;
        units.push(unit >>> 10 & 1023 | 55296);
        unit = 56320 | unit & 1023;
      }
      units.push(unit);
    } else {
      units.push(byte1);
    }
    if (units.length >= CHUNK_SIZE) {
      result += String.fromCharCode(...units);
      units.length = 0;
    }
  }
  if (units.length > 0) {
    result += String.fromCharCode(...units);
  }
  return result;
}
var sharedTextDecoder = new TextDecoder();
var TEXT_DECODER_THRESHOLD = 200;
function utf8DecodeTD(bytes, inputOffset, byteLength) {
  const stringBytes = bytes.subarray(inputOffset, inputOffset + byteLength);
  return sharedTextDecoder.decode(stringBytes);
}
function utf8Decode(bytes, inputOffset, byteLength) {
  if (byteLength > TEXT_DECODER_THRESHOLD) {
    return utf8DecodeTD(bytes, inputOffset, byteLength);
  } else {
    return utf8DecodeJs(bytes, inputOffset, byteLength);
  }
}

// empty:empty
var ExtensionCodec = {};
var CachedKeyDecoder = class {
};

// node_modules/@msgpack/msgpack/dist.esm/utils/int.mjs
var UINT32_MAX = 4294967295;
function setUint64(view, offset, value) {
  const high = value / 4294967296;
  const low = value;
  view.setUint32(offset, high);
  view.setUint32(offset + 4, low);
}
function setInt64(view, offset, value) {
  const high = Math.floor(value / 4294967296);
  const low = value;
  view.setUint32(offset, high);
  view.setUint32(offset + 4, low);
}
function getInt64(view, offset) {
  const high = view.getInt32(offset);
  const low = view.getUint32(offset + 4);
  return high * 4294967296 + low;
}
function getUint64(view, offset) {
  const high = view.getUint32(offset);
  const low = view.getUint32(offset + 4);
  return high * 4294967296 + low;
}

// node_modules/@msgpack/msgpack/dist.esm/utils/typedArrays.mjs
function isArrayBufferLike(buffer) {
  return buffer instanceof ArrayBuffer || typeof SharedArrayBuffer !== "undefined" && buffer instanceof SharedArrayBuffer;
}
function ensureUint8Array(buffer) {
  if (buffer instanceof Uint8Array) {
    return buffer;
  } else if (ArrayBuffer.isView(buffer)) {
    return new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.byteLength);
  } else if (isArrayBufferLike(buffer)) {
    return new Uint8Array(buffer);
  } else {
    return Uint8Array.from(buffer);
  }
}

// node_modules/@msgpack/msgpack/dist.esm/Encoder.mjs
var DEFAULT_MAX_DEPTH = 100;
var DEFAULT_INITIAL_BUFFER_SIZE = 2048;
var Encoder = class _Encoder {
  constructor(options) {
    this.entered = false;
    this.extensionCodec = options?.extensionCodec ?? ExtensionCodec.defaultCodec;
    this.context = options?.context;
    this.useBigInt64 = options?.useBigInt64 ?? false;
    this.maxDepth = options?.maxDepth ?? DEFAULT_MAX_DEPTH;
    this.initialBufferSize = options?.initialBufferSize ?? DEFAULT_INITIAL_BUFFER_SIZE;
    this.sortKeys = options?.sortKeys ?? false;
    this.forceFloat32 = options?.forceFloat32 ?? false;
    this.ignoreUndefined = options?.ignoreUndefined ?? false;
    this.forceIntegerToFloat = options?.forceIntegerToFloat ?? false;
    this.pos = 0;
    this.view = new DataView(new ArrayBuffer(this.initialBufferSize));
    this.bytes = new Uint8Array(this.view.buffer);
  }
  clone() {
    return new _Encoder({
      extensionCodec: this.extensionCodec,
      context: this.context,
      useBigInt64: this.useBigInt64,
      maxDepth: this.maxDepth,
      initialBufferSize: this.initialBufferSize,
      sortKeys: this.sortKeys,
      forceFloat32: this.forceFloat32,
      ignoreUndefined: this.ignoreUndefined,
      forceIntegerToFloat: this.forceIntegerToFloat
    });
  }
  reinitializeState() {
    this.pos = 0;
  }
  /**
   * This is almost equivalent to {@link Encoder#encode}, but it returns an reference of the encoder's internal buffer and thus much faster than {@link Encoder#encode}.
   *
   * @returns Encodes the object and returns a shared reference the encoder's internal buffer.
   */
  encodeSharedRef(object) {
    if (this.entered) {
      const instance = this.clone();
      return instance.encodeSharedRef(object);
    }
    try {
      this.entered = true;
      this.reinitializeState();
      this.doEncode(object, 1);
      return this.bytes.subarray(0, this.pos);
    } finally {
      this.entered = false;
    }
  }
  /**
   * @returns Encodes the object and returns a copy of the encoder's internal buffer.
   */
  encode(object) {
    if (this.entered) {
      const instance = this.clone();
      return instance.encode(object);
    }
    try {
      this.entered = true;
      this.reinitializeState();
      this.doEncode(object, 1);
      return this.bytes.slice(0, this.pos);
    } finally {
      this.entered = false;
    }
  }
  doEncode(object, depth) {
    if (depth > this.maxDepth) {
      throw new Error(`Too deep objects in depth ${depth}`);
    }
    if (object == null) {
      this.encodeNil();
    } else if (typeof object === "boolean") {
      this.encodeBoolean(object);
    } else if (typeof object === "number") {
      if (!this.forceIntegerToFloat) {
        this.encodeNumber(object);
      } else {
        this.encodeNumberAsFloat(object);
      }
    } else if (typeof object === "string") {
      this.encodeString(object);
    } else if (this.useBigInt64 && typeof object === "bigint") {
      this.encodeBigInt64(object);
    } else {
      this.encodeObject(object, depth);
    }
  }
  ensureBufferSizeToWrite(sizeToWrite) {
    const requiredSize = this.pos + sizeToWrite;
    if (this.view.byteLength < requiredSize) {
      this.resizeBuffer(requiredSize * 2);
    }
  }
  resizeBuffer(newSize) {
    const newBuffer = new ArrayBuffer(newSize);
    const newBytes = new Uint8Array(newBuffer);
    const newView = new DataView(newBuffer);
    newBytes.set(this.bytes);
    this.view = newView;
    this.bytes = newBytes;
  }
  encodeNil() {
    this.writeU8(192);
  }
  encodeBoolean(object) {
    if (object === false) {
      this.writeU8(194);
    } else {
      this.writeU8(195);
    }
  }
  encodeNumber(object) {
    if (!this.forceIntegerToFloat && Number.isSafeInteger(object)) {
      if (object >= 0) {
        if (object < 128) {
          this.writeU8(object);
        } else if (object < 256) {
          this.writeU8(204);
          this.writeU8(object);
        } else if (object < 65536) {
          this.writeU8(205);
          this.writeU16(object);
        } else if (object < 4294967296) {
          this.writeU8(206);
          this.writeU32(object);
        } else if (!this.useBigInt64) {
          this.writeU8(207);
          this.writeU64(object);
        } else {
          this.encodeNumberAsFloat(object);
        }
      } else {
        if (object >= -32) {
          this.writeU8(224 | object + 32);
        } else if (object >= -128) {
          this.writeU8(208);
          this.writeI8(object);
        } else if (object >= -32768) {
          this.writeU8(209);
          this.writeI16(object);
        } else if (object >= -2147483648) {
          this.writeU8(210);
          this.writeI32(object);
        } else if (!this.useBigInt64) {
          this.writeU8(211);
          this.writeI64(object);
        } else {
          this.encodeNumberAsFloat(object);
        }
      }
    } else {
      this.encodeNumberAsFloat(object);
    }
  }
  encodeNumberAsFloat(object) {
    if (this.forceFloat32) {
      this.writeU8(202);
      this.writeF32(object);
    } else {
      this.writeU8(203);
      this.writeF64(object);
    }
  }
  encodeBigInt64(object) {
    if (object >= BigInt(0)) {
      this.writeU8(207);
      this.writeBigUint64(object);
    } else {
      this.writeU8(211);
      this.writeBigInt64(object);
    }
  }
  writeStringHeader(byteLength) {
    if (byteLength < 32) {
      this.writeU8(160 + byteLength);
    } else if (byteLength < 256) {
      this.writeU8(217);
      this.writeU8(byteLength);
    } else if (byteLength < 65536) {
      this.writeU8(218);
      this.writeU16(byteLength);
    } else if (byteLength < 4294967296) {
      this.writeU8(219);
      this.writeU32(byteLength);
    } else {
      throw new Error(`Too long string: ${byteLength} bytes in UTF-8`);
    }
  }
  encodeString(object) {
    const maxHeaderSize = 1 + 4;
    const byteLength = utf8Count(object);
    this.ensureBufferSizeToWrite(maxHeaderSize + byteLength);
    this.writeStringHeader(byteLength);
    utf8Encode(object, this.bytes, this.pos);
    this.pos += byteLength;
  }
  encodeObject(object, depth) {
    const ext = this.extensionCodec.tryToEncode(object, this.context);
    if (ext != null) {
      this.encodeExtension(ext);
    } else if (Array.isArray(object)) {
      this.encodeArray(object, depth);
    } else if (ArrayBuffer.isView(object)) {
      this.encodeBinary(object);
    } else if (typeof object === "object") {
      this.encodeMap(object, depth);
    } else {
      throw new Error(`Unrecognized object: ${Object.prototype.toString.apply(object)}`);
    }
  }
  encodeBinary(object) {
    const size = object.byteLength;
    if (size < 256) {
      this.writeU8(196);
      this.writeU8(size);
    } else if (size < 65536) {
      this.writeU8(197);
      this.writeU16(size);
    } else if (size < 4294967296) {
      this.writeU8(198);
      this.writeU32(size);
    } else {
      throw new Error(`Too large binary: ${size}`);
    }
    const bytes = ensureUint8Array(object);
    this.writeU8a(bytes);
  }
  encodeArray(object, depth) {
    const size = object.length;
    if (size < 16) {
      this.writeU8(144 + size);
    } else if (size < 65536) {
      this.writeU8(220);
      this.writeU16(size);
    } else if (size < 4294967296) {
      this.writeU8(221);
      this.writeU32(size);
    } else {
      throw new Error(`Too large array: ${size}`);
    }
    for (const item of object) {
      this.doEncode(item, depth + 1);
    }
  }
  countWithoutUndefined(object, keys) {
    let count = 0;
    for (const key of keys) {
      if (object[key] !== void 0) {
        count++;
      }
    }
    return count;
  }
  encodeMap(object, depth) {
    const keys = Object.keys(object);
    if (this.sortKeys) {
      keys.sort();
    }
    const size = this.ignoreUndefined ? this.countWithoutUndefined(object, keys) : keys.length;
    if (size < 16) {
      this.writeU8(128 + size);
    } else if (size < 65536) {
      this.writeU8(222);
      this.writeU16(size);
    } else if (size < 4294967296) {
      this.writeU8(223);
      this.writeU32(size);
    } else {
      throw new Error(`Too large map object: ${size}`);
    }
    for (const key of keys) {
      const value = object[key];
      if (!(this.ignoreUndefined && value === void 0)) {
        this.encodeString(key);
        this.doEncode(value, depth + 1);
      }
    }
  }
  encodeExtension(ext) {
    if (typeof ext.data === "function") {
      const data = ext.data(this.pos + 6);
      const size2 = data.length;
      if (size2 >= 4294967296) {
        throw new Error(`Too large extension object: ${size2}`);
      }
      this.writeU8(201);
      this.writeU32(size2);
      this.writeI8(ext.type);
      this.writeU8a(data);
      return;
    }
    const size = ext.data.length;
    if (size === 1) {
      this.writeU8(212);
    } else if (size === 2) {
      this.writeU8(213);
    } else if (size === 4) {
      this.writeU8(214);
    } else if (size === 8) {
      this.writeU8(215);
    } else if (size === 16) {
      this.writeU8(216);
    } else if (size < 256) {
      this.writeU8(199);
      this.writeU8(size);
    } else if (size < 65536) {
      this.writeU8(200);
      this.writeU16(size);
    } else if (size < 4294967296) {
      this.writeU8(201);
      this.writeU32(size);
    } else {
      throw new Error(`Too large extension object: ${size}`);
    }
    this.writeI8(ext.type);
    this.writeU8a(ext.data);
  }
  writeU8(value) {
    this.ensureBufferSizeToWrite(1);
    this.view.setUint8(this.pos, value);
    this.pos++;
  }
  writeU8a(values) {
    const size = values.length;
    this.ensureBufferSizeToWrite(size);
    this.bytes.set(values, this.pos);
    this.pos += size;
  }
  writeI8(value) {
    this.ensureBufferSizeToWrite(1);
    this.view.setInt8(this.pos, value);
    this.pos++;
  }
  writeU16(value) {
    this.ensureBufferSizeToWrite(2);
    this.view.setUint16(this.pos, value);
    this.pos += 2;
  }
  writeI16(value) {
    this.ensureBufferSizeToWrite(2);
    this.view.setInt16(this.pos, value);
    this.pos += 2;
  }
  writeU32(value) {
    this.ensureBufferSizeToWrite(4);
    this.view.setUint32(this.pos, value);
    this.pos += 4;
  }
  writeI32(value) {
    this.ensureBufferSizeToWrite(4);
    this.view.setInt32(this.pos, value);
    this.pos += 4;
  }
  writeF32(value) {
    this.ensureBufferSizeToWrite(4);
    this.view.setFloat32(this.pos, value);
    this.pos += 4;
  }
  writeF64(value) {
    this.ensureBufferSizeToWrite(8);
    this.view.setFloat64(this.pos, value);
    this.pos += 8;
  }
  writeU64(value) {
    this.ensureBufferSizeToWrite(8);
    setUint64(this.view, this.pos, value);
    this.pos += 8;
  }
  writeI64(value) {
    this.ensureBufferSizeToWrite(8);
    setInt64(this.view, this.pos, value);
    this.pos += 8;
  }
  writeBigUint64(value) {
    this.ensureBufferSizeToWrite(8);
    this.view.setBigUint64(this.pos, value);
    this.pos += 8;
  }
  writeBigInt64(value) {
    this.ensureBufferSizeToWrite(8);
    this.view.setBigInt64(this.pos, value);
    this.pos += 8;
  }
};

// node_modules/@msgpack/msgpack/dist.esm/utils/prettyByte.mjs
function prettyByte(byte) {
  return `${byte < 0 ? "-" : ""}0x${Math.abs(byte).toString(16).padStart(2, "0")}`;
}

// node_modules/@msgpack/msgpack/dist.esm/DecodeError.mjs
var DecodeError = class _DecodeError extends Error {
  constructor(message) {
    super(message);
    const proto = Object.create(_DecodeError.prototype);
    Object.setPrototypeOf(this, proto);
    Object.defineProperty(this, "name", {
      configurable: true,
      enumerable: false,
      value: _DecodeError.name
    });
  }
};

// node_modules/@msgpack/msgpack/dist.esm/Decoder.mjs
var STATE_ARRAY = "array";
var STATE_MAP_KEY = "map_key";
var STATE_MAP_VALUE = "map_value";
var mapKeyConverter = (key) => {
  if (typeof key === "string" || typeof key === "number") {
    return key;
  }
  throw new DecodeError("The type of key must be string or number but " + typeof key);
};
var StackPool = class {
  constructor() {
    this.stack = [];
    this.stackHeadPosition = -1;
  }
  get length() {
    return this.stackHeadPosition + 1;
  }
  top() {
    return this.stack[this.stackHeadPosition];
  }
  pushArrayState(size) {
    const state = this.getUninitializedStateFromPool();
    state.type = STATE_ARRAY;
    state.position = 0;
    state.size = size;
    state.array = new Array(size);
  }
  pushMapState(size) {
    const state = this.getUninitializedStateFromPool();
    state.type = STATE_MAP_KEY;
    state.readCount = 0;
    state.size = size;
    state.map = {};
  }
  getUninitializedStateFromPool() {
    this.stackHeadPosition++;
    if (this.stackHeadPosition === this.stack.length) {
      const partialState = {
        type: void 0,
        size: 0,
        array: void 0,
        position: 0,
        readCount: 0,
        map: void 0,
        key: null
      };
      this.stack.push(partialState);
    }
    return this.stack[this.stackHeadPosition];
  }
  release(state) {
    const topStackState = this.stack[this.stackHeadPosition];
    if (topStackState !== state) {
      throw new Error("Invalid stack state. Released state is not on top of the stack.");
    }
    if (state.type === STATE_ARRAY) {
      const partialState = state;
      partialState.size = 0;
      partialState.array = void 0;
      partialState.position = 0;
      partialState.type = void 0;
    }
    if (state.type === STATE_MAP_KEY || state.type === STATE_MAP_VALUE) {
      const partialState = state;
      partialState.size = 0;
      partialState.map = void 0;
      partialState.readCount = 0;
      partialState.type = void 0;
    }
    this.stackHeadPosition--;
  }
  reset() {
    this.stack.length = 0;
    this.stackHeadPosition = -1;
  }
};
var HEAD_BYTE_REQUIRED = -1;
var EMPTY_VIEW = new DataView(new ArrayBuffer(0));
var EMPTY_BYTES = new Uint8Array(EMPTY_VIEW.buffer);
try {
  EMPTY_VIEW.getInt8(0);
} catch (e) {
  if (!(e instanceof RangeError)) {
    throw new Error("This module is not supported in the current JavaScript engine because DataView does not throw RangeError on out-of-bounds access");
  }
}
var MORE_DATA = new RangeError("Insufficient data");
var sharedCachedKeyDecoder = new CachedKeyDecoder();
var Decoder = class _Decoder {
  constructor(options) {
    this.totalPos = 0;
    this.pos = 0;
    this.view = EMPTY_VIEW;
    this.bytes = EMPTY_BYTES;
    this.headByte = HEAD_BYTE_REQUIRED;
    this.stack = new StackPool();
    this.entered = false;
    this.extensionCodec = options?.extensionCodec ?? ExtensionCodec.defaultCodec;
    this.context = options?.context;
    this.useBigInt64 = options?.useBigInt64 ?? false;
    this.rawStrings = options?.rawStrings ?? false;
    this.maxStrLength = options?.maxStrLength ?? UINT32_MAX;
    this.maxBinLength = options?.maxBinLength ?? UINT32_MAX;
    this.maxArrayLength = options?.maxArrayLength ?? UINT32_MAX;
    this.maxMapLength = options?.maxMapLength ?? UINT32_MAX;
    this.maxExtLength = options?.maxExtLength ?? UINT32_MAX;
    this.keyDecoder = options?.keyDecoder !== void 0 ? options.keyDecoder : sharedCachedKeyDecoder;
    this.mapKeyConverter = options?.mapKeyConverter ?? mapKeyConverter;
  }
  clone() {
    return new _Decoder({
      extensionCodec: this.extensionCodec,
      context: this.context,
      useBigInt64: this.useBigInt64,
      rawStrings: this.rawStrings,
      maxStrLength: this.maxStrLength,
      maxBinLength: this.maxBinLength,
      maxArrayLength: this.maxArrayLength,
      maxMapLength: this.maxMapLength,
      maxExtLength: this.maxExtLength,
      keyDecoder: this.keyDecoder
    });
  }
  reinitializeState() {
    this.totalPos = 0;
    this.headByte = HEAD_BYTE_REQUIRED;
    this.stack.reset();
  }
  setBuffer(buffer) {
    const bytes = ensureUint8Array(buffer);
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.pos = 0;
  }
  appendBuffer(buffer) {
    if (this.headByte === HEAD_BYTE_REQUIRED && !this.hasRemaining(1)) {
      this.setBuffer(buffer);
    } else {
      const remainingData = this.bytes.subarray(this.pos);
      const newData = ensureUint8Array(buffer);
      const newBuffer = new Uint8Array(remainingData.length + newData.length);
      newBuffer.set(remainingData);
      newBuffer.set(newData, remainingData.length);
      this.setBuffer(newBuffer);
    }
  }
  hasRemaining(size) {
    return this.view.byteLength - this.pos >= size;
  }
  createExtraByteError(posToShow) {
    const { view, pos } = this;
    return new RangeError(`Extra ${view.byteLength - pos} of ${view.byteLength} byte(s) found at buffer[${posToShow}]`);
  }
  /**
   * @throws {@link DecodeError}
   * @throws {@link RangeError}
   */
  decode(buffer) {
    if (this.entered) {
      const instance = this.clone();
      return instance.decode(buffer);
    }
    try {
      this.entered = true;
      this.reinitializeState();
      this.setBuffer(buffer);
      const object = this.doDecodeSync();
      if (this.hasRemaining(1)) {
        throw this.createExtraByteError(this.pos);
      }
      return object;
    } finally {
      this.entered = false;
    }
  }
  doDecodeSync() {
    DECODE: while (true) {
      const headByte = this.readHeadByte();
      let object;
      if (headByte >= 224) {
        object = headByte - 256;
      } else if (headByte < 192) {
        if (headByte < 128) {
          object = headByte;
        } else if (headByte < 144) {
          const size = headByte - 128;
          if (size !== 0) {
            this.pushMapState(size);
            this.complete();
            continue DECODE;
          } else {
            object = {};
          }
        } else if (headByte < 160) {
          const size = headByte - 144;
          if (size !== 0) {
            this.pushArrayState(size);
            this.complete();
            continue DECODE;
          } else {
            object = [];
          }
        } else {
          const byteLength = headByte - 160;
          object = this.decodeString(byteLength, 0);
        }
      } else if (headByte === 192) {
        object = null;
      } else if (headByte === 194) {
        object = false;
      } else if (headByte === 195) {
        object = true;
      } else if (headByte === 202) {
        object = this.readF32();
      } else if (headByte === 203) {
        object = this.readF64();
      } else if (headByte === 204) {
        object = this.readU8();
      } else if (headByte === 205) {
        object = this.readU16();
      } else if (headByte === 206) {
        object = this.readU32();
      } else if (headByte === 207) {
        if (this.useBigInt64) {
          object = this.readU64AsBigInt();
        } else {
          object = this.readU64();
        }
      } else if (headByte === 208) {
        object = this.readI8();
      } else if (headByte === 209) {
        object = this.readI16();
      } else if (headByte === 210) {
        object = this.readI32();
      } else if (headByte === 211) {
        if (this.useBigInt64) {
          object = this.readI64AsBigInt();
        } else {
          object = this.readI64();
        }
      } else if (headByte === 217) {
        const byteLength = this.lookU8();
        object = this.decodeString(byteLength, 1);
      } else if (headByte === 218) {
        const byteLength = this.lookU16();
        object = this.decodeString(byteLength, 2);
      } else if (headByte === 219) {
        const byteLength = this.lookU32();
        object = this.decodeString(byteLength, 4);
      } else if (headByte === 220) {
        const size = this.readU16();
        if (size !== 0) {
          this.pushArrayState(size);
          this.complete();
          continue DECODE;
        } else {
          object = [];
        }
      } else if (headByte === 221) {
        const size = this.readU32();
        if (size !== 0) {
          this.pushArrayState(size);
          this.complete();
          continue DECODE;
        } else {
          object = [];
        }
      } else if (headByte === 222) {
        const size = this.readU16();
        if (size !== 0) {
          this.pushMapState(size);
          this.complete();
          continue DECODE;
        } else {
          object = {};
        }
      } else if (headByte === 223) {
        const size = this.readU32();
        if (size !== 0) {
          this.pushMapState(size);
          this.complete();
          continue DECODE;
        } else {
          object = {};
        }
      } else if (headByte === 196) {
        const size = this.lookU8();
        object = this.decodeBinary(size, 1);
      } else if (headByte === 197) {
        const size = this.lookU16();
        object = this.decodeBinary(size, 2);
      } else if (headByte === 198) {
        const size = this.lookU32();
        object = this.decodeBinary(size, 4);
      } else if (headByte === 212) {
        object = this.decodeExtension(1, 0);
      } else if (headByte === 213) {
        object = this.decodeExtension(2, 0);
      } else if (headByte === 214) {
        object = this.decodeExtension(4, 0);
      } else if (headByte === 215) {
        object = this.decodeExtension(8, 0);
      } else if (headByte === 216) {
        object = this.decodeExtension(16, 0);
      } else if (headByte === 199) {
        const size = this.lookU8();
        object = this.decodeExtension(size, 1);
      } else if (headByte === 200) {
        const size = this.lookU16();
        object = this.decodeExtension(size, 2);
      } else if (headByte === 201) {
        const size = this.lookU32();
        object = this.decodeExtension(size, 4);
      } else {
        throw new DecodeError(`Unrecognized type byte: ${prettyByte(headByte)}`);
      }
      this.complete();
      const stack = this.stack;
      while (stack.length > 0) {
        const state = stack.top();
        if (state.type === STATE_ARRAY) {
          state.array[state.position] = object;
          state.position++;
          if (state.position === state.size) {
            object = state.array;
            stack.release(state);
          } else {
            continue DECODE;
          }
        } else if (state.type === STATE_MAP_KEY) {
          if (object === "__proto__") {
            throw new DecodeError("The key __proto__ is not allowed");
          }
          state.key = this.mapKeyConverter(object);
          state.type = STATE_MAP_VALUE;
          continue DECODE;
        } else {
          state.map[state.key] = object;
          state.readCount++;
          if (state.readCount === state.size) {
            object = state.map;
            stack.release(state);
          } else {
            state.key = null;
            state.type = STATE_MAP_KEY;
            continue DECODE;
          }
        }
      }
      return object;
    }
  }
  readHeadByte() {
    if (this.headByte === HEAD_BYTE_REQUIRED) {
      this.headByte = this.readU8();
    }
    return this.headByte;
  }
  complete() {
    this.headByte = HEAD_BYTE_REQUIRED;
  }
  readArraySize() {
    const headByte = this.readHeadByte();
    switch (headByte) {
      case 220:
        return this.readU16();
      case 221:
        return this.readU32();
      default: {
        if (headByte < 160) {
          return headByte - 144;
        } else {
          throw new DecodeError(`Unrecognized array type byte: ${prettyByte(headByte)}`);
        }
      }
    }
  }
  pushMapState(size) {
    if (size > this.maxMapLength) {
      throw new DecodeError(`Max length exceeded: map length (${size}) > maxMapLengthLength (${this.maxMapLength})`);
    }
    this.stack.pushMapState(size);
  }
  pushArrayState(size) {
    if (size > this.maxArrayLength) {
      throw new DecodeError(`Max length exceeded: array length (${size}) > maxArrayLength (${this.maxArrayLength})`);
    }
    this.stack.pushArrayState(size);
  }
  decodeString(byteLength, headerOffset) {
    if (!this.rawStrings || this.stateIsMapKey()) {
      return this.decodeUtf8String(byteLength, headerOffset);
    }
    return this.decodeBinary(byteLength, headerOffset);
  }
  /**
   * @throws {@link RangeError}
   */
  decodeUtf8String(byteLength, headerOffset) {
    if (byteLength > this.maxStrLength) {
      throw new DecodeError(`Max length exceeded: UTF-8 byte length (${byteLength}) > maxStrLength (${this.maxStrLength})`);
    }
    if (this.bytes.byteLength < this.pos + headerOffset + byteLength) {
      throw MORE_DATA;
    }
    const offset = this.pos + headerOffset;
    let object;
    if (this.stateIsMapKey() && this.keyDecoder?.canBeCached(byteLength)) {
      object = this.keyDecoder.decode(this.bytes, offset, byteLength);
    } else {
      object = utf8Decode(this.bytes, offset, byteLength);
    }
    this.pos += headerOffset + byteLength;
    return object;
  }
  stateIsMapKey() {
    if (this.stack.length > 0) {
      const state = this.stack.top();
      return state.type === STATE_MAP_KEY;
    }
    return false;
  }
  /**
   * @throws {@link RangeError}
   */
  decodeBinary(byteLength, headOffset) {
    if (byteLength > this.maxBinLength) {
      throw new DecodeError(`Max length exceeded: bin length (${byteLength}) > maxBinLength (${this.maxBinLength})`);
    }
    if (!this.hasRemaining(byteLength + headOffset)) {
      throw MORE_DATA;
    }
    const offset = this.pos + headOffset;
    const object = this.bytes.subarray(offset, offset + byteLength);
    this.pos += headOffset + byteLength;
    return object;
  }
  decodeExtension(size, headOffset) {
    if (size > this.maxExtLength) {
      throw new DecodeError(`Max length exceeded: ext length (${size}) > maxExtLength (${this.maxExtLength})`);
    }
    const extType = this.view.getInt8(this.pos + headOffset);
    const data = this.decodeBinary(
      size,
      headOffset + 1
      /* extType */
    );
    return this.extensionCodec.decode(data, extType, this.context);
  }
  lookU8() {
    return this.view.getUint8(this.pos);
  }
  lookU16() {
    return this.view.getUint16(this.pos);
  }
  lookU32() {
    return this.view.getUint32(this.pos);
  }
  readU8() {
    const value = this.view.getUint8(this.pos);
    this.pos++;
    return value;
  }
  readI8() {
    const value = this.view.getInt8(this.pos);
    this.pos++;
    return value;
  }
  readU16() {
    const value = this.view.getUint16(this.pos);
    this.pos += 2;
    return value;
  }
  readI16() {
    const value = this.view.getInt16(this.pos);
    this.pos += 2;
    return value;
  }
  readU32() {
    const value = this.view.getUint32(this.pos);
    this.pos += 4;
    return value;
  }
  readI32() {
    const value = this.view.getInt32(this.pos);
    this.pos += 4;
    return value;
  }
  readU64() {
    const value = getUint64(this.view, this.pos);
    this.pos += 8;
    return value;
  }
  readI64() {
    const value = getInt64(this.view, this.pos);
    this.pos += 8;
    return value;
  }
  readU64AsBigInt() {
    const value = this.view.getBigUint64(this.pos);
    this.pos += 8;
    return value;
  }
  readI64AsBigInt() {
    const value = this.view.getBigInt64(this.pos);
    this.pos += 8;
    return value;
  }
  readF32() {
    const value = this.view.getFloat32(this.pos);
    this.pos += 4;
    return value;
  }
  readF64() {
    const value = this.view.getFloat64(this.pos);
    this.pos += 8;
    return value;
  }
};

// src/values.ts
var EXT_CODE = 89;
var SENDER_OWNS = 1;
var RECEIVER_OWNS = 2;
var ExtData = class {
  constructor(type, data) {
    this.type = type;
    this.data = data;
  }
};
var Results = class {
  constructor(values) {
    this.values = values;
  }
};
var results = (...values) => new Results(values);
var MIN_INT64 = -(2n ** 63n);
var MAX_UINT64 = 2n ** 64n - 1n;
function key_path(path) {
  return path.map((key, i) => typeof key === "number" ? `[${key}]` : i === 0 ? key : `.${key}`).join("");
}
var UNSENDABLE = [Map, Set, WeakMap, WeakSet, Promise, RegExp, Date, Error, ArrayBuffer, Results];
function why_unsendable(value) {
  const kind = UNSENDABLE.find((type) => value instanceof type)?.name;
  if (!kind) return void 0;
  return `a ${kind} cannot be sent`;
}
var Codec = class {
  #extensions;
  #decoder;
  #encoder;
  #functions;
  #nesting_max;
  constructor(functions, nesting_max) {
    this.#functions = functions;
    this.#nesting_max = nesting_max;
    this.#extensions = {
      tryToEncode: (value) => {
        if (typeof value === "function") return new ExtData(EXT_CODE, this.#encode_function(value));
        return value instanceof ExtData ? value : null;
      },
      decode: (body, type) => type === EXT_CODE ? this.#decode_function(body) : new ExtData(type, body)
    };
    this.#decoder = new Decoder({
      extensionCodec: this.#extensions,
      useBigInt64: true,
      keyDecoder: null,
      mapKeyConverter: (key) => typeof key === "number" ? key : String(key)
    });
    this.#encoder = this.#new_encoder(false);
  }
  #new_encoder(useBigInt64) {
    return new Encoder({ extensionCodec: this.#extensions, useBigInt64, maxDepth: Infinity, ignoreUndefined: true });
  }
  /** Encodes one value, without a check of it. `big`: it has a bigint. */
  encode(value, big = false) {
    if (big) return this.#new_encoder(true).encode(widen(value));
    const bytes = this.#encoder.encode(value);
    if (bytes.length > 262144) this.#encoder = this.#new_encoder(false);
    return bytes;
  }
  /**
   * Throws an ArgumentError with the path to the first value that cannot be sent. Returns whether there is a bigint.
   */
  check(values, name) {
    let big = false;
    const path = [name];
    const refuse = (text2) => {
      throw new ArgumentError(`${key_path(path)}: ${text2}`);
    };
    const check_value = (value, depth) => {
      if (typeof value === "bigint") {
        big = true;
        if (value < MIN_INT64 || value > MAX_UINT64) refuse("has more than 64 bits");
      }
      if (typeof value === "symbol") refuse("a symbol cannot be sent");
      if (typeof value !== "object" || value === null || value instanceof ExtData || ArrayBuffer.isView(value)) return;
      if (depth > this.#nesting_max) {
        refuse(`nested deeper than ${this.#nesting_max} levels, or contains itself`);
      }
      const why = why_unsendable(value);
      if (why) refuse(why);
      if (Array.isArray(value)) check_list(value, depth);
      else for (const key of Object.keys(value)) check_at(key, value[key], depth + 1);
    };
    const check_at = (key, value, depth) => {
      path.push(key);
      check_value(value, depth);
      path.pop();
    };
    const check_list = (list, depth) => {
      for (let i = 0; i < list.length; i += 1) check_at(i, list[i], depth + 1);
    };
    check_list(values, 0);
    return big;
  }
  /** Decodes one message. `wide`: it has integers of 64 bits, which become numbers where a number holds them. */
  decode(bytes, wide) {
    const value = this.#decoder.decode(bytes);
    return wide ? narrow(value) : value;
  }
  #encode_function(value) {
    const { owned_by_sender, id } = this.#functions.send(value);
    const body = new Uint8Array(8);
    const view = new DataView(body.buffer);
    view.setBigUint64(0, BigInt(id));
    body[0] = owned_by_sender ? SENDER_OWNS : RECEIVER_OWNS;
    return body;
  }
  #decode_function(body) {
    const owner = body[0];
    if (body.length !== 8 || owner !== SENDER_OWNS && owner !== RECEIVER_OWNS) return new ExtData(EXT_CODE, body);
    let id = 0;
    for (const byte of body.subarray(1)) id = id * 256 + byte;
    return this.#functions.receive({ owned_by_sender: owner === SENDER_OWNS, id }) ?? null;
  }
};
var is_plain = (value) => typeof value === "object" && value !== null && !(value instanceof ExtData) && !ArrayBuffer.isView(value);
function widen(value) {
  if (Number.isSafeInteger(value) && Math.abs(value) >= 2 ** 31) return BigInt(value);
  if (Array.isArray(value)) return value.map(widen);
  if (!is_plain(value)) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, widen(item)]));
}
function narrow(value) {
  if (typeof value === "bigint") {
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

// src/serving.ts
var RUNNING_BYTES_MAX = 8 * 1024 * 1024;
var DESCRIBED_MAX = 4096;
var is_promise = (value) => typeof value?.then === "function";
function own(object, name) {
  if (typeof object !== "object" || object === null) return void 0;
  return Object.getOwnPropertyDescriptor(object, name)?.value;
}
function find(layers, name) {
  const segments = name.split(".");
  if (segments.some((segment) => segment === "" || segment.startsWith("_"))) return void 0;
  const last = segments.pop();
  for (const layer of [...layers].reverse()) {
    const owner = segments.reduce(own, layer);
    const method = own(owner, last);
    if (typeof method === "function") return { owner, method };
  }
  return void 0;
}
function describe(layers) {
  const names = /* @__PURE__ */ new Set();
  const walk = (object, prefix, around) => {
    if (around.includes(object)) return;
    for (const name of Object.keys(object)) {
      const value = own(object, name);
      if (name === "" || name.startsWith("_") || name.includes(".") || names.size > DESCRIBED_MAX) continue;
      if (typeof value === "function") names.add(prefix + name);
      else if (typeof value === "object" && value !== null) walk(value, `${prefix}${name}.`, [...around, object]);
    }
  };
  for (const layer of layers) walk(layer, "", []);
  const sorted = [...names].sort();
  const more = sorted.length > DESCRIBED_MAX;
  return { functions: sorted.slice(0, DESCRIBED_MAX).map((name) => ({ name })), ...more && { more } };
}
var Serving = class {
  #running = 0;
  #running_bytes = 0;
  layers;
  #settings;
  #exported;
  constructor(settings2, exported) {
    this.#settings = settings2;
    this.#exported = exported;
    this.layers = [settings2.symbols ?? {}];
  }
  /** The number of requests that run. */
  get in_flight() {
    return this.#running;
  }
  /** Runs a request and passes its answer to `done`, at once if the function returns no promise. */
  run(request, done) {
    const fail = (error) => done({ error: this.#error(error) });
    const { in_flight_max } = this.#settings;
    if (this.#running >= in_flight_max || this.#running_bytes + request.bytes > RUNNING_BYTES_MAX) {
      return fail(new ServerBusyError(`${this.#running} requests run already, the limit`, { retryable: true }));
    }
    if (typeof request.left === "number" && request.left <= 0) {
      return fail(new TimeoutError("the time of the call had passed before it started", { retryable: true }));
    }
    const found = this.#find(request.method);
    if (found instanceof YueError) return fail(found);
    this.#running += 1;
    this.#running_bytes += request.bytes;
    const end = (finish) => {
      this.#running -= 1;
      this.#running_bytes -= request.bytes;
      finish();
    };
    const failed = (failure) => end(() => {
      this.#settings.log(`yue: the handler of ${String(request.method).slice(0, 100)} failed`, failure);
      fail(failure);
    });
    const returned = (value) => end(() => done({ results: value instanceof Results ? value.values : value === void 0 ? [] : [value] }));
    try {
      const value = found.method.apply(found.owner, request.params);
      if (is_promise(value)) value.then(returned, failed);
      else returned(value);
    } catch (failure) {
      failed(failure);
    }
  }
  #find(method) {
    if (typeof method === "number") {
      const value = this.#exported(method);
      if (value) return { owner: void 0, method: value };
      return new NoMethodError("there is no such function: it was released, or belonged to an earlier link");
    }
    const name = method instanceof Uint8Array ? new TextDecoder().decode(method) : String(method);
    return find(this.layers, name) ?? new NoMethodError(`there is no method '${name.slice(0, 100)}'`);
  }
  #error(failure) {
    return to_wire(failure, this.#settings.traceback);
  }
  /** The answer in place of results, or of an error's value, that cannot be sent. */
  unsendable(failure) {
    const error = as_error(failure);
    return { error: this.#error(error.is_a("MessageTooLargeError") ? error : new ServerError(error.msg)) };
  }
};

// src/connection.ts
var VERSION = 1;
var DECODED_FACTOR = 8;
var Connection = class {
  /** @internal */
  constructor(address, connector, settings2) {
    this.address = address;
    this.#connector = connector;
    this.#settings = settings2;
    this.#input = new Input(settings2.message_max);
    this.#events = new Events(settings2.log);
    this.#retries = new Retries(settings2);
    this.#calls = new Calls(settings2.in_flight_max, settings2.held_max, (call) => this.#expire(call));
    this.#references = new References(
      settings2.references_max,
      (entry, args) => this.start("", args, { entry }),
      (value) => is_procedure(value) ? "the procedures of a connection cannot be sent" : void 0,
      () => this.#output?.flush()
    );
    this.#codec = new Codec(this.#references, settings2.nesting_max);
    this.#serving = new Serving(settings2, (id) => this.#references.exported(id));
    this.#keepalive = new Keepalive(settings2.keepalive, {
      ping: () => {
        this.#counts.pings += 1;
        this.#control_request("$yue/ping", [], () => {
        });
      },
      lost: () => this.#end_link({ kind: "lost", text: "the link broke: the peer does not answer pings" }, true)
    });
    this.procs = procedures(this, true);
  }
  /** The server's procedures. In `accept` they do not wait for the grant. */
  procs;
  #phase = "idle";
  #link;
  #peer_is_yue = false;
  #input;
  #output;
  #calls;
  #codec;
  #references;
  #serving;
  #keepalive;
  #events;
  #retries;
  #timer;
  #counts = {
    calls: 0,
    calls_held: 0,
    timeouts: 0,
    notifications: 0,
    notifications_dropped: 0,
    requests: 0,
    bytes_in: 0,
    links: 0,
    pings: 0
  };
  #connector;
  #settings;
  // -- For programs ---------------------------------------------------------------------------------------------------
  /** Whether calls are sent at once: the link is up and granted. */
  get connected() {
    return this.#phase === "up";
  }
  /** The functions that the server may call, to read and to change. */
  get namespace() {
    return this.#serving.layers[0];
  }
  /** Adds functions that the server may call. */
  import(symbols) {
    this.#serving.layers.push(symbols);
  }
  /** Connects now. By default the first call does. */
  connect() {
    if (this.#phase === "idle") this.#start_connecting();
  }
  /** Calls the procedure of that name, which is taken literally: `''` has no prefixes. */
  call(name, args = [], options = {}) {
    return this.start(name, args, options);
  }
  /** Notifies: there is no answer. Returns whether the notification was queued. */
  notify(name, ...args) {
    return this.start_notification(name, args);
  }
  /** The server's functions that this side may call. */
  async describe() {
    const answer = await this.start("$yue/describe", [], {});
    return answer.functions;
  }
  /** Calls `listener` at each event of that name. Returns a function that ends this. */
  on(event, listener) {
    return this.#events.on(event, listener);
  }
  /** Counts, of all links together. */
  stats() {
    return {
      ...this.#counts,
      calls_in_flight: this.#calls.in_flight,
      requests_in_flight: this.#serving.in_flight,
      functions_held: this.#references.held,
      queued_bytes: this.#output?.queued ?? 0
    };
  }
  /** Closes the connection for good. The server's `__close` gets the reason. */
  close(reason = "") {
    if (this.#phase === "closed") return;
    clearTimeout(this.#timer);
    if (this.#link) {
      if (reason !== "" && this.#peer_is_yue) {
        this.#send_notification("$yue/refused", [to_wire(new ConnectionLostError(reason), false)]);
      }
      this.#end_link({ kind: "local", text: "closed by this side" }, false, reason);
      return;
    }
    this.#phase = "closed";
    this.#fail_held(() => this.#closed_error());
  }
  // -- Calls ----------------------------------------------------------------------------------------------------------
  /** @internal Makes a call. */
  start(name, args, options) {
    return new Promise((resolve2, reject) => {
      const { signal, entry, all } = options;
      if (signal?.aborted) throw new CancelledError("the call was cancelled", { retryable: true });
      const deadline = performance.now() + check_seconds(options.timeout ?? this.#settings.timeout) * 1e3;
      if (this.#phase === "closed") throw this.#closed_error();
      const { encoded, carried } = this.#encode_body(entry ?? name, args);
      const abandon = () => this.#give_up(call, (written) => new CancelledError("the call was cancelled", { retryable: !written }));
      const call = {
        id: void 0,
        body: encoded,
        carried,
        deadline,
        written: false,
        timer: void 0,
        epoch: entry || carried.imports.length > 0 ? this.#references.epoch : void 0,
        resolve: (value, count) => {
          signal?.removeEventListener("abort", abandon);
          resolve2(all && count === void 0 ? [value] : !all && count === 0 ? void 0 : value);
        },
        reject: (error) => {
          signal?.removeEventListener("abort", abandon);
          reject(error);
        }
      };
      signal?.addEventListener("abort", abandon);
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
  start_notification(name, args, options = {}) {
    if (this.#phase === "closed") return false;
    const { encoded, carried } = this.#encode_body(name, args);
    const call = {
      id: void 0,
      body: encoded,
      carried,
      written: false,
      timer: void 0,
      deadline: performance.now() + check_seconds(options.timeout ?? Infinity) * 1e3,
      epoch: carried.imports.length > 0 ? this.#references.epoch : void 0,
      resolve: () => {
      },
      reject: () => {
      }
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
  #closed_error() {
    return new ConnectionLostError(`the connection to ${this.address} is closed`);
  }
  /** The method and the arguments, without the array around them. */
  #encode_body(method, args) {
    if (typeof method !== "string") this.#references.check_fresh(method);
    const big = this.#codec.check(args, "args");
    const name = typeof method === "string" ? method : method.id;
    const outcome = this.#references.carry(() => this.#codec.encode([name, args], big).subarray(1));
    if (outcome.encoded.length > this.#settings.message_max) {
      this.#references.drop(outcome.carried);
      throw this.#too_large(outcome.encoded.length);
    }
    return outcome;
  }
  #too_large(bytes) {
    const { message_max } = this.#settings;
    return new MessageTooLargeError(`a message of ${bytes} bytes is larger than message_max, ${message_max}`);
  }
  #send_or_hold(call, { early, entry }) {
    const handshake = this.#phase === "greeting" || this.#phase === "accepting";
    if (this.#phase === "up" || early && this.#phase === "accepting" || entry && handshake) {
      if (this.#output.queued > this.#settings.output_max) {
        const text2 = `more than output_max, ${this.#settings.output_max} bytes, wait to be sent`;
        throw new QueueFullError(text2, { retryable: true });
      }
      this.#write_call(call);
      return;
    }
    this.#calls.hold(call, this.address);
    this.#counts.calls_held += 1;
    this.connect();
  }
  #write_call(call) {
    if (call.carried.exports.length > 0 && !this.#peer_is_yue) {
      throw new ArgumentError("cannot send a function: the peer is not a yue peer");
    }
    const head = [146, 2];
    let tail;
    if (call.id !== void 0) {
      const left = Math.ceil(call.deadline - performance.now());
      if (this.#peer_is_yue && left < Number.MAX_SAFE_INTEGER) tail = this.#codec.encode({ t: Math.max(0, left) });
      head.splice(1, 1, 0, 206, call.id >>> 24, call.id >>> 16 & 255, call.id >>> 8 & 255, call.id & 255);
    }
    head[0] = call.id === void 0 ? 147 : tail ? 149 : 148;
    call.written = true;
    this.#references.sent(call.carried);
    this.#output.write(Uint8Array.from(head), call.body, ...tail ? [tail] : []);
  }
  #write_held() {
    for (const call of this.#calls.take_held()) {
      try {
        if (call.epoch !== void 0 && call.epoch !== this.#references.epoch) {
          throw new ConnectionLostError("the call names a function of a connection that is lost", { retryable: true });
        }
        this.#write_call(call);
        if (call.id === void 0) clearTimeout(call.timer);
      } catch (error) {
        this.#references.drop(call.carried);
        this.#calls.remove(call);
        call.reject(error);
      }
    }
  }
  #expire(call) {
    if (call.id === void 0) {
      this.#calls.remove(call);
      this.#references.drop(call.carried);
      this.#counts.notifications_dropped += 1;
      return;
    }
    this.#give_up(call, (written) => this.#timed_out(written));
  }
  #timed_out(written) {
    this.#counts.timeouts += 1;
    this.#events.emit("timeout");
    if (this.#phase === "up") return timeout_error(`${this.address} did not answer in time`, written);
    const why = this.#retries.trouble ? `: ${this.#retries.trouble}` : "";
    return timeout_error(`the connection to ${this.address} was not ready in time${why}`, written);
  }
  #give_up(call, error) {
    this.#calls.remove(call);
    if (!call.written) this.#references.drop(call.carried);
    else if (this.#peer_is_yue && this.#link) this.#send_notification("$yue/cancel", [call.id]);
    call.reject(error(call.written));
  }
  #fail_held(error) {
    for (const call of this.#calls.take_held()) {
      this.#calls.remove(call);
      this.#references.drop(call.carried);
      call.reject(error());
    }
  }
  #send_notification(method, args) {
    this.#output?.write(this.#codec.encode([2, method, args]));
  }
  /** A request of this library itself, which waits as long as the link lasts. */
  #control_request(method, args, done) {
    const call = {
      id: this.#calls.take_id(true),
      body: this.#codec.encode([method, args]).subarray(1),
      deadline: Infinity,
      carried: { exports: [], imports: [] },
      epoch: void 0,
      written: false,
      timer: void 0,
      resolve: () => done(void 0),
      reject: (error) => {
        if (!(error instanceof ConnectionLostError)) done(as_error(error));
      }
    };
    this.#calls.add(call);
    this.#write_call(call);
  }
  // -- Links ----------------------------------------------------------------------------------------------------------
  #start_connecting() {
    this.#phase = "connecting";
    const wait = this.#retries.next_wait_ms();
    if (wait === 0) this.#attempt();
    else this.#timer = setTimeout(() => this.#attempt(), wait);
  }
  #attempt() {
    this.#timer = setTimeout(() => this.#on_slow_handshake(), this.#settings.handshake_timeout * 1e3);
    let current;
    const is_current = () => this.#link !== void 0 && this.#link === current;
    const events = {
      opened: () => is_current() && this.#phase === "connecting" && this.#on_opened(),
      data: (bytes) => is_current() && this.#on_data(bytes),
      closed: (reason, error) => {
        if (!is_current()) return;
        if (this.#phase === "connecting") this.#on_failed(error ?? new ConnectionLostError(reason));
        else this.#end_link({ kind: reason.startsWith("the link broke") ? "lost" : "peer", text: reason }, false);
      }
    };
    try {
      this.#link = current = this.#connector(this.address, events, this.#settings);
    } catch (error) {
      this.#on_failed(as_error(error));
    }
  }
  #on_slow_handshake() {
    const link2 = this.#link;
    if (this.#phase !== "connecting") {
      return this.#end_link({ kind: "handshake", text: "the handshake took too long" }, true);
    }
    this.#on_failed(new ConnectionTimeoutError(`cannot connect to ${this.address} in time`, { retryable: true }));
    link2?.end("", true);
  }
  #on_failed(error) {
    clearTimeout(this.#timer);
    this.#link = void 0;
    if (this.#retries.after_failure(error)) return this.#start_connecting();
    this.#rest();
    this.#fail_held(() => copy_of(error));
  }
  #rest() {
    this.#phase = "idle";
    this.#retries.rest();
  }
  #on_opened() {
    this.#counts.links += 1;
    this.#phase = "greeting";
    this.#output = new Output(this.#link, () => {
      for (const releases of this.#references.take_releases()) this.#send_notification("$yue/release", [releases]);
    });
    this.#events.emit("open");
    if (this.#phase !== "greeting") return;
    if (this.#settings.legacy) return void this.#on_granted(void 0);
    this.#control_request("$yue/hello", [VERSION, { id: random_id() }], (error) => {
      if (error) void this.#on_granted(void 0);
      else this.#peer_is_yue = true;
    });
  }
  async #on_granted(value) {
    if (this.#phase !== "greeting") return;
    this.#phase = "accepting";
    const link2 = this.#link;
    if (this.#settings.accept) {
      let failure;
      try {
        if (await this.#settings.accept(this, value) === false) failure = "accept returned false";
      } catch (error) {
        failure = as_error(error).msg;
        this.#settings.log("yue: accept failed", error);
      }
      if (this.#link !== link2 || this.#phase !== "accepting") return;
      if (failure !== void 0) {
        return this.#end_link({ kind: "handshake", text: `a callback of the connection failed: ${failure}` }, true);
      }
    }
    clearTimeout(this.#timer);
    this.#phase = "up";
    this.#retries.granted();
    if (this.#peer_is_yue) this.#keepalive.begin();
    this.#write_held();
    this.#events.emit("accept", value);
  }
  /** The server's reason: of a refusal, or once the connection is up, of its end. */
  #on_refused(error) {
    if (this.#phase === "up") {
      if (this.#peer_is_yue) this.#end_link({ kind: "peer", text: `closed by the peer: ${error.msg}` }, false);
    } else {
      this.#end_link({ kind: "refused", text: `the connection was not granted: ${error.msg}` }, false);
    }
  }
  #end_link(reason, fault, told = fault ? reason.text : "") {
    const link2 = this.#link;
    if (!link2) return;
    clearTimeout(this.#timer);
    this.#output?.flush();
    this.#link = this.#output = void 0;
    const was_connecting = this.#phase === "connecting";
    this.#phase = reason.kind === "local" ? "closed" : "ending";
    this.#keepalive.end();
    this.#peer_is_yue = false;
    this.#input = new Input(this.#settings.message_max);
    link2.end(told, fault);
    this.#references.end_link();
    for (const call of this.#calls.take_written()) call.reject(lost_call(reason));
    if (this.#phase === "closed") this.#fail_held(() => this.#closed_error());
    if (was_connecting) return;
    this.#events.emit("close", reason.text);
    void this.#run_close(reason);
  }
  async #run_close(reason) {
    let again;
    try {
      again = await this.#settings.close?.(this, reason.text);
    } catch (error) {
      again = false;
      this.#settings.log("yue: close failed", error);
    }
    if (this.#phase !== "ending") return;
    again ??= this.#retries.after_end(reason);
    if (!again) {
      this.#rest();
      return this.#fail_held(() => unsent_call(reason));
    }
    this.#retries.begin(reason);
    this.#start_connecting();
  }
  // -- Reading --------------------------------------------------------------------------------------------------------
  #on_data(bytes) {
    this.#counts.bytes_in += bytes.length;
    this.#keepalive.heard();
    const link2 = this.#link;
    const input = this.#input;
    try {
      input.push(bytes, (message) => {
        this.#on_message(message);
        return this.#link === link2;
      });
    } catch (error) {
      if (!(error instanceof Malformed)) throw error;
      this.#on_malformed(error, input.rest);
    }
  }
  #on_malformed(error, bytes) {
    const head = peek(bytes, 0);
    if (error.too_large && head?.kind === 1) this.#calls.take(head.id)?.reject(new MessageTooLargeError(error.message));
    this.#end_link({ kind: "protocol", text: `${error.message}: received "${shown(bytes)}"` }, true);
  }
  #on_message({ bytes, wide, depth, memory }) {
    let message;
    try {
      if (depth > this.#settings.nesting_max + 2) {
        throw new Error(`values are nested deeper than nesting_max, ${this.#settings.nesting_max}`);
      }
      if (memory > DECODED_FACTOR * this.#settings.message_max) throw new Error("its values take too much memory");
      message = this.#codec.decode(bytes, wide);
    } catch (error) {
      return this.#on_unreadable(bytes, error.message);
    }
    const [kind, first, second, third, fourth] = message;
    const length = message.length;
    if (kind === 0 && length >= 4 && is_id(first) && is_method(second) && Array.isArray(third)) {
      const left = fourth?.t;
      return this.#on_request(first, second, third, bytes.length, left);
    }
    if (kind === 1 && length >= 4 && is_id(first)) return this.#on_answer(first, second, third, fourth);
    if (kind === 2 && length >= 3 && is_method(first) && Array.isArray(second)) {
      return this.#on_notification(first, second, bytes.length);
    }
    this.#on_malformed(new Malformed("a message is neither request nor answer nor notification"), bytes);
  }
  /** A message whose end is known, but whose values cannot be accepted: an error of that call alone. */
  #on_unreadable(bytes, why) {
    const head = peek(bytes, 0);
    const error = new MessageRefusedError(`the message was not accepted: ${why}`);
    if (head?.kind === 0) this.#answer(head.id, { error: to_wire(error, false) });
    else if (head?.kind === 1) this.#calls.take(head.id)?.reject(error);
  }
  #on_answer(id, error, result, count) {
    const call = this.#calls.take(id);
    if (!call) return;
    if (error !== null && error !== void 0) {
      const failure = from_wire(error);
      const late = failure.is_a("TimeoutError") && performance.now() >= call.deadline;
      return call.reject(late ? this.#timed_out(true) : failure);
    }
    const counted = typeof count === "number" && Array.isArray(result);
    call.resolve(result, counted ? result.length : void 0);
  }
  #on_request(id, method, params, bytes, left) {
    const link2 = this.#link;
    if (typeof method === "string" && method.startsWith("$yue/")) {
      if (method === "$yue/ping") return this.#answer(id, { results: [null] });
      if (method === "$yue/describe" && this.#settings.describe) {
        return this.#answer(id, { results: [describe(this.#serving.layers)] });
      }
    }
    this.#counts.requests += 1;
    this.#serving.run({ id, method, params, bytes, left }, (answer) => {
      if (this.#link === link2) this.#answer(id, answer);
    });
  }
  #on_notification(method, params, bytes) {
    switch (method) {
      case "$yue/granted":
        return void this.#on_granted(params[0]);
      case "$yue/refused":
        return this.#on_refused(from_wire(params[0]));
      case "$yue/release":
        return this.#references.release(params[0]);
    }
    if (typeof method === "string" && method.startsWith("$yue/")) return;
    this.#counts.requests += 1;
    this.#serving.run({ id: void 0, method, params, bytes, left: void 0 }, () => {
    });
  }
  /** Answers a request. An answer that cannot be sent becomes an error. */
  #answer(id, answer) {
    const { output_max, message_max } = this.#settings;
    if (this.#output.queued > output_max + message_max) {
      return this.#end_link({ kind: "lost", text: "the peer reads nothing" }, true);
    }
    try {
      this.#write_answer(id, answer);
    } catch (failure) {
      this.#settings.log("yue: an answer cannot be sent", failure);
      this.#write_answer(id, this.#serving.unsendable(failure));
    }
  }
  #write_answer(id, { error, results: results2 = [] }) {
    const big = this.#codec.check(error ?? results2, error ? "error" : "results");
    const count = results2.length;
    const message = error ? [1, id, error, null] : count === 1 ? [1, id, null, results2[0]] : this.#peer_is_yue ? [1, id, null, results2, count] : [1, id, null, count === 0 ? null : results2];
    const { encoded, carried } = this.#references.carry(() => this.#codec.encode(message, big));
    const refusal = encoded.length > this.#settings.message_max ? this.#too_large(encoded.length) : carried.exports.length > 0 && !this.#peer_is_yue ? new ArgumentError("cannot send a function: the peer is not a yue peer") : void 0;
    if (refusal) {
      this.#references.drop(carried);
      throw refusal;
    }
    this.#references.sent(carried);
    this.#output.write(encoded);
  }
};
var is_id = (value) => typeof value === "number" && Number.isInteger(value) && value >= 0 && value < 2 ** 32;
var is_method = (value) => typeof value === "string" || typeof value === "number" || typeof value === "bigint" || value instanceof Uint8Array;

// src/options.ts
var MIB = 1024 * 1024;
var DEFAULTS = {
  timeout: 5,
  reconnect: true,
  retry: false,
  legacy: false,
  describe: true,
  traceback: false,
  handshake_timeout: 30,
  keepalive: 50,
  message_max: 4 * MIB,
  nesting_max: 128,
  in_flight_max: 16384,
  held_max: 8 * MIB,
  output_max: 8 * MIB,
  references_max: MIB,
  log: (text2, error) => console.error(text2, error)
};
var OTHERS = {
  symbols: "object",
  accept: "function",
  close: "function",
  insecure: "boolean",
  ca: "string",
  cert: "string",
  key: "string",
  server_name: "string"
};
function settings(options) {
  const given = {};
  for (const [name, value] of Object.entries(options)) {
    if (value === void 0) continue;
    const known = Object.hasOwn(DEFAULTS, name) ? typeof DEFAULTS[name] : OTHERS[name];
    if (!known) throw new ArgumentError(`there is no option '${name}'`);
    const right = typeof value === known && value !== null && !(known === "number" && !(value >= 0));
    if (!right && !(name === "keepalive" && value === false)) {
      throw new ArgumentError(`the option ${name} must be a ${known}${known === "number" ? ", 0 or more" : ""}`);
    }
    given[name] = value;
  }
  return { ...DEFAULTS, ...given };
}

// src/open.ts
function resolve(address) {
  const page = globalThis.location;
  if (!address.startsWith("/") || !page) return address;
  return new URL(address, page.href).href.replace(/^http/, "ws");
}
function opener(transports) {
  return ((address, options = {}) => {
    const resolved = resolve(String(address));
    const scheme = /^([a-z]+):\/\//.exec(resolved)?.[1] ?? "";
    const connect4 = Object.hasOwn(transports, scheme) ? transports[scheme] : void 0;
    if (!connect4) {
      const known = Object.keys(transports).map((name) => `${name}://`);
      throw new AddressError(`'${resolved}' is not an address; addresses begin with ${known.join(", ")}`);
    }
    return procedures(new Connection(resolved, connect4, settings(options)), false);
  });
}

// src/sockets.ts
import { readFileSync } from "node:fs";
import * as net from "node:net";
import * as node_tls from "node:tls";
var DRAIN_MS = 1e3;
function place(address) {
  let url;
  try {
    url = new URL(address);
  } catch {
  }
  const port = Number(url?.port);
  if (!url || url.hostname === "" || !(port > 0)) {
    throw new AddressError(`'${address}' is not an address: it needs a host and a port, such as tcp://127.0.0.1:8080`);
  }
  return { host: url.hostname.replace(/^\[|\]$/g, ""), port };
}
function connect_error(address, error) {
  const text2 = `cannot connect to ${address}: ${error.message || error.code}`;
  const details = { retryable: true };
  switch (error.code) {
    case "ECONNREFUSED":
    case "ENOENT":
      return new ConnectionRefusedError(text2, details);
    case "ENETUNREACH":
    case "EHOSTUNREACH":
      return new NetworkUnreachableError(text2, details);
    case "ETIMEDOUT":
      return new ConnectionTimeoutError(text2, details);
  }
  const of_tls = /^(ERR_SSL|ERR_TLS|CERT_|DEPTH_ZERO|SELF_SIGNED|UNABLE_TO)/.test(error.code ?? "");
  return of_tls ? new TLSError(text2) : new TransportError(text2, details);
}
function link(address, socket, ready, events) {
  let opened = false;
  let failure;
  socket.setNoDelay(true);
  socket.once(ready, () => {
    opened = true;
    events.opened();
  });
  socket.on("data", (bytes) => events.data(new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.length)));
  socket.on("error", (error) => {
    failure = error;
  });
  socket.on("end", () => socket.end());
  socket.on("close", () => {
    if (!opened) {
      const error = connect_error(address, failure ?? new Error("the server closed the connection at once"));
      return events.closed(error.msg, error);
    }
    events.closed(failure ? `the link broke: ${failure.message}` : "closed by the peer");
  });
  return {
    send: (bytes) => void socket.write(bytes),
    buffered: () => socket.writableLength,
    end: () => {
      socket.end();
      const timer = setTimeout(() => socket.destroy(), DRAIN_MS);
      socket.once("close", () => clearTimeout(timer));
    }
  };
}
var tcp = (address, events) => link(address, net.connect(place(address)), "connect", events);
var unix = (address, events) => {
  const path = address.slice("unix://".length);
  if (!path.startsWith("/")) throw new AddressError(`'${address}' is not an address: unix:// needs an absolute path`);
  return link(address, net.connect({ path }), "connect", events);
};
function pem(name, options) {
  const given = options[name];
  if (given === void 0 || given.includes("-----BEGIN")) return given;
  try {
    return readFileSync(given, "utf8");
  } catch (error) {
    throw new AddressError(`cannot read ${name}: ${error.message}`);
  }
}
var tls = (address, events, options) => {
  const { host, port } = place(address);
  const name = options.server_name ?? host;
  const socket = node_tls.connect({
    host,
    port,
    // A numeric address has no server name, but is verified.
    ...net.isIP(name) ? {} : { servername: name },
    ca: pem("ca", options),
    cert: pem("cert", options),
    key: pem("key", options),
    rejectUnauthorized: !options.insecure
  });
  return link(address, socket, "secureConnect", events);
};

// src/websocket.ts
var OPEN = 1;
var ORDINARY = 1e3;
var FAULT = 4002;
var REASON_BYTES = 123;
function cut(reason) {
  let text2 = reason.slice(0, REASON_BYTES);
  while (new TextEncoder().encode(text2).length > REASON_BYTES) text2 = text2.slice(0, -1);
  return text2;
}
function websocket(create) {
  return (address, events) => {
    let socket;
    try {
      socket = create(address, "msgpack-rpc");
    } catch (error) {
      throw new AddressError(`cannot connect to ${address}: ${error.message}`);
    }
    socket.binaryType = "arraybuffer";
    let opened = false;
    let detail = "";
    socket.onopen = () => {
      opened = true;
      events.opened();
    };
    socket.onmessage = ({ data }) => {
      if (typeof data !== "string") return events.data(new Uint8Array(data));
      events.data(new TextEncoder().encode(data || " "));
    };
    socket.onerror = (event) => {
      detail = typeof event?.message === "string" ? event.message : detail;
    };
    socket.onclose = ({ reason, code }) => {
      if (!opened) {
        const why = detail || "no server listens there, it has another path, or it does not allow this origin";
        const text3 = `cannot connect to ${address}: ${why}`;
        return events.closed(text3, new ConnectionRefusedError(text3, { retryable: true }));
      }
      const text2 = reason ? `closed by the peer: ${reason}` : "closed by the peer";
      events.closed(code === 1006 ? `the link broke${detail && `: ${detail}`}` : text2);
    };
    return {
      send: (bytes) => {
        if (socket.readyState === OPEN) socket.send(bytes);
      },
      buffered: () => socket.bufferedAmount,
      end: (reason, fault) => socket.close(fault ? FAULT : ORDINARY, cut(reason))
    };
  };
}

// src/node.ts
function socket_class() {
  const found = globalThis.WebSocket;
  if (found) return found;
  for (const from of [import.meta.url, process.argv[1]]) {
    try {
      return createRequire(from)("ws");
    } catch {
    }
  }
  throw new Error("this Node.js has no WebSocket: npm install ws, or use tcp://");
}
var connect3 = websocket((address, protocol) => new (socket_class())(address, protocol));
var open = opener({ tcp, tls, unix, ws: connect3, wss: connect3 });
export {
  AddressError,
  ArgumentError,
  CallError,
  CancelledError,
  ClientError,
  Connection,
  ConnectionLostError,
  ConnectionRefusedError,
  ConnectionTimeoutError,
  ExtData,
  MessageRefusedError,
  MessageTooLargeError,
  NetworkUnreachableError,
  NoMethodError,
  NotGrantedError,
  QueueFullError,
  RPCError,
  RuntimeError,
  ServerBusyError,
  ServerError,
  TLSError,
  TimeoutError,
  TransportError,
  YueError,
  connection,
  open,
  results
};
