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
export declare const DEFAULTS: {
    timeout: number;
    reconnect: boolean;
    retry: boolean;
    legacy: boolean;
    describe: boolean;
    traceback: boolean;
    handshake_timeout: number;
    keepalive: number | false;
    message_max: number;
    nesting_max: number;
    in_flight_max: number;
    held_max: number;
    output_max: number;
    references_max: number;
    log: (text: string, error: unknown) => void;
};
export type Settings = Options & typeof DEFAULTS;
/** Fills in the defaults. Throws an ArgumentError for a misspelt option or a value of the wrong type. */
export declare function settings(options: Options): Settings;
