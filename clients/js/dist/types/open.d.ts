import { type Options } from './options.js';
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
export declare function opener(transports: Transports): Open;
