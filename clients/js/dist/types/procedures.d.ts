import type { Connection } from './connection.js';
import type { AnyFunction } from './values.js';
export declare function procedures(connection: Connection, early: boolean): AnyFunction;
/** Whether a value is procedures of a connection. */
export declare const is_procedure: (value: object) => boolean;
/** The connection that procedures belong to. */
export declare function connection(procedures: object): Connection;
