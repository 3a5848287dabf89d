// The options of `open`, with the names and defaults of the book's page on options.

import { ArgumentError } from './errors.js';
import type { Connection } from './connection.js';

/** Functions that the server may call, in nested objects. Names that begin with `_` are private. */
export type Symbols = Record<string, any>;

export interface Options {
  /** The functions that the server may call. */
  symbols?: Symbols | undefined;
  /** Seconds that a call waits. */
  timeout?: number | undefined;
  /** The server has granted the connection, with this value. `false` or an error closes it. */
  accept?: ((connection: Connection, value: any) => unknown) | undefined;
  /** The link has ended. True makes it again, false does not, and undefined leaves that to `reconnect`. */
  close?: ((connection: Connection, reason: string) => unknown) | undefined;
  /** Makes a lost link again. */
  reconnect?: boolean | undefined;
  /** Keeps trying when the very first attempt is refused. */
  retry?: boolean | undefined;
  /** Plain msgpack-rpc, without yue's greeting. */
  legacy?: boolean | undefined;
  /** Whether the server may list the functions of this side. */
  describe?: boolean | undefined;
  /** Whether the stacks of handlers' errors are sent to the server. */
  traceback?: boolean | undefined;
  /** Is called with the failures of handlers and callbacks; by default `console.error`. */
  log?: ((text: string, error: unknown) => void) | undefined;
  /** Seconds for greeting and accept together. */
  handshake_timeout?: number | undefined;
  /** Seconds after which a peer that does not answer a ping counts as lost, or false. */
  keepalive?: number | false | undefined;
  /** Bytes of one message. */
  message_max?: number | undefined;
  /** Nesting of one value. */
  nesting_max?: number | undefined;
  /** Calls that wait for answers; and, separately, requests of the server that run. */
  in_flight_max?: number | undefined;
  /** Bytes of calls that wait for the connection. */
  held_max?: number | undefined;
  /** Bytes that wait to leave, above which calls and notifications are refused. */
  output_max?: number | undefined;
  /** Functions of this side that the server holds. */
  references_max?: number | undefined;
  /** tls: authorities that are trusted, a certificate, and its key: PEM texts or names of files. (Node only.) */
  ca?: string | undefined;
  cert?: string | undefined;
  key?: string | undefined;
  /** tls: the name in the server's certificate; by default the host of the address. (Node only.) */
  server_name?: string | undefined;
  /** tls: does not verify the server. (Node only.) */
  insecure?: boolean | undefined;
}

const MIB = 1024 * 1024;

export const DEFAULTS = {
  timeout: 5,
  reconnect: true,
  retry: false,
  legacy: false,
  describe: true,
  traceback: false,
  handshake_timeout: 30,
  keepalive: 50 as number | false,
  message_max: 4 * MIB,
  nesting_max: 128,
  in_flight_max: 16_384,
  held_max: 8 * MIB,
  output_max: 8 * MIB,
  references_max: MIB,
  log: (text: string, error: unknown): void => console.error(text, error),
};

export type Settings = Options & typeof DEFAULTS;

const OTHERS: Record<string, string> = {
  symbols: 'object', accept: 'function', close: 'function', insecure: 'boolean',
  ca: 'string', cert: 'string', key: 'string', server_name: 'string',
};

/** Fills in the defaults. Throws an ArgumentError for a misspelt option or a value of the wrong type. */
export function settings(options: Options): Settings {
  const given: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined) continue;
    const known = Object.hasOwn(DEFAULTS, name) ? typeof DEFAULTS[name as keyof typeof DEFAULTS] : OTHERS[name];
    if (!known) throw new ArgumentError(`there is no option '${name}'`);
    const right = typeof value === known && value !== null && !(known === 'number' && !((value as number) >= 0));
    if (!right && !(name === 'keepalive' && value === false)) {
      throw new ArgumentError(`the option ${name} must be a ${known}${known === 'number' ? ', 0 or more' : ''}`);
    }
    given[name] = value;
  }
  return { ...DEFAULTS, ...given };
}
