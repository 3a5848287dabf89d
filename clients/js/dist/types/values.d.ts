/** A function as it crosses a connection. The owner is seen from the message that carries it. */
export interface Reference {
    owned_by_sender: boolean;
    id: number;
}
export type AnyFunction = (...args: any[]) => any;
/** The functions that cross a connection. */
export interface FunctionTable {
    /** The reference for a function among values that are sent. */
    send(value: AnyFunction): Reference;
    /** The function for a reference that has arrived; undefined if there is none of that id. */
    receive(reference: Reference): AnyFunction | undefined;
}
/** An opaque value: a msgpack extension. The class is declared here so that the published types need no package. */
export declare class ExtData {
    readonly type: number;
    readonly data: Uint8Array;
    constructor(type: number, data: Uint8Array);
}
/** Several results of a handler. */
export declare class Results {
    readonly values: unknown[];
    constructor(values: unknown[]);
}
/** Returns several results from a handler, or none: `return results(10, 'gold')`. */
export declare const results: (...values: unknown[]) => Results;
export declare class Codec {
    #private;
    constructor(functions: FunctionTable, nesting_max: number);
    /** Encodes one value, without a check of it. `big`: it has a bigint. */
    encode(value: unknown, big?: boolean): Uint8Array<ArrayBuffer>;
    /**
     * Throws an ArgumentError with the path to the first value that cannot be sent. Returns whether there is a bigint.
     */
    check(values: unknown[], name: string): boolean;
    /** Decodes one message. `wide`: it has integers of 64 bits, which become numbers where a number holds them. */
    decode(bytes: Uint8Array, wide: boolean): unknown;
}
