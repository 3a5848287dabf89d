import type { Link } from './transport.js';
type Bytes = Uint8Array<ArrayBuffer>;
export declare class Output {
    #private;
    /** `before_flush` may write more. */
    constructor(link: Link, before_flush: () => void);
    /** Bytes that wait to leave. */
    get queued(): number;
    /** Writes a message, in pieces. */
    write(...parts: Bytes[]): void;
    flush(): void;
}
export {};
