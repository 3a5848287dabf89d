/** The details of an error, as it is made. */
export interface ErrorDetails {
    /** The raised value, if it was not a text. */
    value?: unknown;
    /** Whether the call can be repeated without the risk that it runs twice. */
    retryable?: boolean;
    /** The traceback of the peer, if it sent one. */
    traceback?: string | undefined;
    /** The number of a foreign error; by default the type's. */
    code?: number;
}
/** The base of all errors of this library. */
export declare class YueError extends Error {
    /** The name of the type, such as `'TimeoutError'`. */
    readonly type: string;
    /** The type's number. */
    readonly code: number;
    /** The message alone; `message` is the same. */
    readonly msg: string;
    readonly value: unknown;
    readonly retryable: boolean;
    readonly traceback: string | undefined;
    constructor(msg: string, details?: ErrorDetails);
    /** Whether the error is of that type, or of one below it. */
    is_a(type: string): boolean;
}
/** A class of the tree. */
export type ErrorType = new (msg: string, details?: ErrorDetails) => YueError;
export declare const RPCError: ErrorType;
export declare const TimeoutError: ErrorType;
export declare const CancelledError: ErrorType;
export declare const RuntimeError: ErrorType;
export declare const ClientError: ErrorType;
export declare const TransportError: ErrorType;
export declare const NetworkUnreachableError: ErrorType;
export declare const ConnectionRefusedError: ErrorType;
export declare const ConnectionTimeoutError: ErrorType;
export declare const ConnectionLostError: ErrorType;
export declare const AddressError: ErrorType;
export declare const TLSError: ErrorType;
export declare const MessageRefusedError: ErrorType;
export declare const MessageTooLargeError: ErrorType;
export declare const CallError: ErrorType;
export declare const NoMethodError: ErrorType;
export declare const ArgumentError: ErrorType;
export declare const NotGrantedError: ErrorType;
export declare const ServerError: ErrorType;
export declare const ServerBusyError: ErrorType;
export declare const QueueFullError: ErrorType;
