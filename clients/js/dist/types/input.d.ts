/** One message's bytes, and what the scanner found out about it. */
export interface Message {
    bytes: Uint8Array;
    wide: boolean;
    depth: number;
    memory: number;
}
export declare class Input {
    #private;
    constructor(message_max: number);
    /** Passes each message that is complete now to `handle`, while that returns true. Throws `Malformed`. */
    push(data: Uint8Array, handle: (message: Message) => boolean): void;
    /** The bytes that belong to no message yet. */
    get rest(): Uint8Array;
}
