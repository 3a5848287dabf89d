import { type EventName } from './events.js';
import type { Symbols } from './options.js';
/** How one call is made. */
export interface CallOptions {
    /** Seconds that it waits; by default the option `timeout`. */
    timeout?: number | undefined;
    /** Gives the call up when it is aborted: it fails with a CancelledError, and the server is told. */
    signal?: AbortSignal | undefined;
    /** Returns all results in an array, however many there are. */
    all?: boolean | undefined;
}
/** A function that the server lists. */
export interface Described {
    name: string;
    params?: string[];
    vararg?: boolean;
    doc?: string;
}
export declare class Connection {
    #private;
    /** The server's address. */
    readonly address: string;
    /** The server's procedures. In `accept` they do not wait for the grant. */
    readonly procs: any;
    /** Whether calls are sent at once: the link is up and granted. */
    get connected(): boolean;
    /** The functions that the server may call, to read and to change. */
    get namespace(): Symbols;
    /** Adds functions that the server may call. */
    import(symbols: Symbols): void;
    /** Connects now. By default the first call does. */
    connect(): void;
    /** Calls the procedure of that name, which is taken literally: `''` has no prefixes. */
    call(name: string, args?: unknown[], options?: CallOptions): Promise<any>;
    /** Notifies: there is no answer. Returns whether the notification was queued. */
    notify(name: string, ...args: unknown[]): boolean;
    /** The server's functions that this side may call. */
    describe(): Promise<Described[]>;
    /** Calls `listener` at each event of that name. Returns a function that ends this. */
    on(event: EventName, listener: (value: any) => void): () => void;
    /** Counts, of all links together. */
    stats(): {
        calls_in_flight: number;
        requests_in_flight: number;
        functions_held: number;
        queued_bytes: number;
        calls: number;
        calls_held: number;
        timeouts: number;
        notifications: number;
        notifications_dropped: number;
        requests: number;
        bytes_in: number;
        links: number;
        pings: number;
    };
    /** Closes the connection for good. The server's `__close` gets the reason. */
    close(reason?: string): void;
}
