import type { Options } from './options.js';
import type { YueError } from './errors.js';
/** The events of one link, in this order. After `closed` there are none. */
export interface LinkEvents {
    opened(): void;
    data(bytes: Uint8Array): void;
    /** The link has ended, or could not be made. `error`: the reason, as the error of a call that waits for it. */
    closed(reason: string, error?: YueError): void;
}
export interface Link {
    send(bytes: Uint8Array<ArrayBuffer>): void;
    /** Bytes that wait to leave. */
    buffered(): number;
    /** Ends the link after what was sent has left. `fault`: because of what the peer did. */
    end(reason: string, fault: boolean): void;
}
/** Makes a link. Throws only an AddressError. */
export type Connect = (address: string, events: LinkEvents, options: Options) => Link;
/** Transports by the scheme of an address. */
export type Transports = Record<string, Connect>;
