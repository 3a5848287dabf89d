// The objects behind `c.f` and `c.a.b.f`: proxies, of which each knows its path.

import { check_seconds } from './calls.js';
import { ArgumentError } from './errors.js';
import type { Connection } from './connection.js';
import type { AnyFunction } from './values.js';

interface Node {
  connection: Connection;
  /** In the callback `accept`: calls do not wait for the grant. */
  early: boolean;
  /** The name that is called; empty at the root. */
  path: string;
  /** The same with the prefixes as written: they count in the last name only. */
  raw: string;
  prefixes: Set<string>;
}

const nodes = new WeakMap<object, Node>();

const PREFIXES = ['async_', 'timed_', 'notify_'];

/** Splits the prefixes off a name. `=name` has none. */
function parse(name: string): { rest: string; prefixes: Set<string> } {
  const prefixes = new Set<string>();
  if (name.startsWith('=')) return { rest: name.slice(1), prefixes };
  for (;;) {
    const prefix = PREFIXES.find((prefix) => name.startsWith(prefix) && name.length > prefix.length);
    if (!prefix || prefixes.has(prefix)) return { rest: name, prefixes };
    prefixes.add(prefix);
    name = name.slice(prefix.length);
  }
}

function start({ connection, early, path, prefixes }: Node, args: unknown[]): unknown {
  if (path === '') throw new ArgumentError('name a procedure: c.name(…)');
  const timed = prefixes.has('timed_');
  const timeout = timed ? check_seconds(args[0]) : undefined;
  const rest = timed ? args.slice(1) : args;
  if (prefixes.has('notify_')) {
    return connection.start_notification(path, rest, { early, ...(timed && { timeout: timeout! }) });
  }
  return connection.start(path, rest, { early, timeout });
}

const handler: ProxyHandler<AnyFunction> = {
  get(target, name) {
    // Nothing is a procedure that the language itself asks for: `await c` looks for `then`, and String(c) for a symbol.
    if (typeof name === 'symbol' || name === 'then') return undefined;
    const node = nodes.get(target)!;
    const { rest, prefixes } = parse(name);
    const around = node.path === '' ? '' : `${node.raw}.`;
    return make({ ...node, path: around + rest, raw: around + (name.startsWith('=') ? rest : name), prefixes });
  },
  apply(target, _this, args) {
    const node = nodes.get(target)!;
    if (node.prefixes.has('notify_')) return start(node, args);
    try {
      return start(node, args);
    } catch (error) {
      return Promise.reject(error);
    }
  },
  has: () => false,
  ownKeys: () => [],
  getOwnPropertyDescriptor: () => undefined,
  set() {
    throw new ArgumentError('the procedures of a connection cannot be assigned to');
  },
  defineProperty() {
    throw new ArgumentError('the procedures of a connection cannot be assigned to');
  },
};

function make(node: Node): AnyFunction {
  // A function, so that it can be called, and without properties of its own that a proxy would have to show.
  const target: AnyFunction = () => {};
  nodes.set(target, node);
  const proxy = new Proxy(target, handler);
  nodes.set(proxy, node);
  return proxy;
}

export function procedures(connection: Connection, early: boolean): AnyFunction {
  return make({ connection, early, path: '', raw: '', prefixes: new Set() });
}

/** Whether a value is procedures of a connection. */
export const is_procedure = (value: object): boolean => nodes.has(value);

/** The connection that procedures belong to. */
export function connection(procedures: object): Connection {
  const node = nodes.get(procedures);
  if (!node) throw new ArgumentError('connection() takes the procedures that open() returned');
  return node.connection;
}
