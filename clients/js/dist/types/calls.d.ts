import { type YueError } from './errors.js';
import type { Carried } from './references.js';
/** A call, or a notification that is held. */
export interface Call {
    /** Undefined: a notification. */
    id: number | undefined;
    /** The method and the arguments, encoded. */
    body: Uint8Array<ArrayBuffer>;
    carried: Carried;
    /** The link of functions of the peer that it names. */
    epoch: number | undefined;
    /** By `performance.now()`. */
    deadline: number;
    written: boolean;
    /** `count`: of results in an array, where it is not one result. */
    resolve: (value: unknown, count?: number) => void;
    reject: (error: unknown) => void;
    timer: ReturnType<typeof setTimeout> | undefined;
}
export declare class Calls {
    #private;
    constructor(limit: number, held_max: number, expire: (call: Call) => void);
    /** The number of calls that wait for answers or for the link. */
    get in_flight(): number;
    /** A msgid that no call has which still waits. `own`: for a request of this library, which no limit stops. */
    take_id(own?: boolean): number;
    add(call: Call): void;
    /** Keeps a call until the link is up. Throws if too much is held; one call of any size is. */
    hold(call: Call, address: string): void;
    /** The held calls, in the order in which they were made; they are not held any more. */
    take_held(): Call[];
    /** The call that an answer is for; undefined for an answer that comes too late. */
    take(id: unknown): Call | undefined;
    /** Nobody waits for the call any more. */
    remove(call: Call): void;
    /** Returns the calls that were written, of which none will be answered. */
    take_written(): Call[];
}
export declare const timeout_error: (text: string, written: boolean) => YueError;
/** Returns the seconds that a call may last. */
export declare function check_seconds(seconds: unknown): number;
