import { YueError } from './errors.js';
/** The error that came over the wire: `[code, message, {type, traceback, retryable, value}]`, or any foreign value. */
export declare function from_wire(wire: unknown): YueError;
/** Any failure as it travels to the peer. */
export declare function to_wire(failure: unknown, with_traceback: boolean): [number, string, Record<string, unknown>];
/** What a handler threw, as an error of the tree. */
export declare function as_error(failure: unknown): YueError;
