// `open`, for the transports of a platform.

import { Connection } from './connection.js';
import { AddressError } from './errors.js';
import { settings, type Options } from './options.js';
import { procedures } from './procedures.js';
import type { Transports } from './transport.js';
import type { AnyProcedures, Procedures } from './types.js';

/**
 * Returns the procedures of the server at that address. It returns at once; the first call connects.
 *
 * The type parameter is an interface of the server's functions.
 */
export interface Open {
  <T = any>(address: string, options?: Options): 0 extends 1 & T ? AnyProcedures : Procedures<T>;
}

/** A page may leave the host out: `open('/game')` is the page's own server. */
function resolve(address: string): string {
  const page = (globalThis as { location?: { href: string } }).location;
  if (!address.startsWith('/') || !page) return address;
  return new URL(address, page.href).href.replace(/^http/, 'ws');
}

export function opener(transports: Transports): Open {
  return ((address: string, options: Options = {}) => {
    const resolved = resolve(String(address));
    const scheme = /^([a-z]+):\/\//.exec(resolved)?.[1] ?? '';
    const connect = Object.hasOwn(transports, scheme) ? transports[scheme] : undefined;
    if (!connect) {
      const known = Object.keys(transports).map((name) => `${name}://`);
      throw new AddressError(`'${resolved}' is not an address; addresses begin with ${known.join(', ')}`);
    }
    return procedures(new Connection(resolved, connect, settings(options)), false);
  }) as unknown as Open;
}
