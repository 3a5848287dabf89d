import type { AnyFunction, FunctionTable, Reference } from './values.js';
/** A function of this side that the peer holds, or that a held call will carry. */
interface Export {
    id: number;
    value: AnyFunction;
    /** Crossings that the peer has not returned. */
    crossings: number;
    /** Held calls that will carry it. */
    held: number;
}
/** A function of the peer. The callable is held weakly, so that the engine can collect it. */
export interface Import {
    owner: References;
    /** The link that it came over. */
    epoch: number;
    id: number;
    crossings: number;
    callable: WeakRef<AnyFunction> | undefined;
}
/** The functions that one message carries, while it is encoded and until it is sent. */
export interface Carried {
    exports: Export[];
    /** Functions of the peer that it names: a reference, so that they are not released before the message leaves. */
    imports: AnyFunction[];
}
/** A random number of 48 bits, other than 0. */
export declare function random_id(): number;
export declare class References implements FunctionTable {
    #private;
    /** Counts links. */
    epoch: number;
    constructor(limit: number, call: (entry: Import, args: unknown[]) => Promise<unknown>, refuses: (value: AnyFunction) => string | undefined, flush_releases: () => void);
    /** The number of this side's functions that the peer holds. */
    get held(): number;
    /** Runs an encoder, and returns the functions that it sent. If it throws, they are taken back. */
    carry<T>(encode: () => T): {
        encoded: T;
        carried: Carried;
    };
    send(value: AnyFunction): Reference;
    /** The message is sent: the peer holds what it carries. */
    sent(carried: Carried): void;
    /** The message is not sent. */
    drop(carried: Carried): void;
    receive({ owned_by_sender, id }: Reference): AnyFunction | undefined;
    /** The function of this side that the peer names by `id`. */
    exported(id: number): AnyFunction | undefined;
    /** The peer returns crossings. It may claim more than it holds. */
    release(pairs: unknown): void;
    /** Throws if the function came over a link that is lost. */
    check_fresh(entry: Import): void;
    record_release(entry: Import): void;
    /** The releases that are due, as arguments of messages. */
    take_releases(): [number, number][][];
    /** The link has ended, and every reference with it, except for what held calls will carry. */
    end_link(): void;
}
export {};
