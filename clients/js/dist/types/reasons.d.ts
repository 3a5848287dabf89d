import { type YueError } from './errors.js';
export interface Reason {
    /** `handshake`: it took too long, or a callback of this side failed or refused. */
    kind: 'local' | 'peer' | 'lost' | 'refused' | 'protocol' | 'handshake';
    text: string;
}
/** The error of a call that was written. */
export declare function lost_call(reason: Reason, retryable?: boolean): YueError;
/** The error of a call that was still held. */
export declare function unsent_call(reason: Reason): YueError;
/** Each call gets an error of its own. */
export declare function copy_of(error: YueError): YueError;
/** The beginning of what a peer sent instead of a message, in printable characters. */
export declare function shown(bytes: Uint8Array): string;
