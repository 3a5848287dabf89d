/** The bytes are not msgpack-rpc, or break a limit of the whole link: the start of the next message is unknown. */
export declare class Malformed extends Error {
    readonly too_large: boolean;
    constructor(message: string, too_large?: boolean);
}
export declare class Scanner {
    #private;
    private readonly message_max;
    /** Of the message that was found: whether it has integers of 64 bits, which are decoded as bigint. */
    wide: boolean;
    /** An estimate of the memory that its values take. */
    memory: number;
    constructor(message_max: number);
    /** The nesting of the message that was found. */
    get depth(): number;
    /** Returns the end of the message that begins at `start`, or -1 if more bytes are needed. */
    find(bytes: Uint8Array, start: number): number;
}
/** The kind and the msgid at the start of a message that cannot be decoded, where they can be read. */
export declare function peek(bytes: Uint8Array, start: number): {
    kind: number;
    id: number;
} | undefined;
