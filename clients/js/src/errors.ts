// The error types: one class for each type of the tree in the book's page on errors. `instanceof` and `is_a` both test
// for a whole branch; `type` and `code` are the same as in Lua and on the wire.

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
export class YueError extends Error {
  /** The name of the type, such as `'TimeoutError'`. */
  declare readonly type: string;
  /** The type's number. */
  declare readonly code: number;
  /** The message alone; `message` is the same. */
  readonly msg: string;
  readonly value: unknown;
  readonly retryable: boolean;
  readonly traceback: string | undefined;

  constructor(msg: string, details: ErrorDetails = {}) {
    super(msg);
    this.msg = msg;
    this.value = details.value;
    this.retryable = details.retryable ?? false;
    this.traceback = details.traceback;
    if (details.code !== undefined) this.code = details.code;
  }

  /** Whether the error is of that type, or of one below it. */
  is_a(type: string): boolean {
    let prototype = Object.getPrototypeOf(this);
    while (prototype && prototype !== Error.prototype) {
      if (prototype.type === type) return true;
      prototype = Object.getPrototypeOf(prototype);
    }
    return type === 'Error';
  }
}

/** A class of the tree. */
export type ErrorType = new (msg: string, details?: ErrorDetails) => YueError;

/** @internal */
export const BY_NAME = new Map<string, ErrorType>();
/** @internal */
export const BY_CODE = new Map<number, ErrorType>();

function add(name: string, code: number, type: ErrorType): ErrorType {
  // On the prototype, and as values, because a bundler may shorten the names of classes.
  Object.assign(type.prototype, { type: name, name, code });
  Object.defineProperty(type, 'name', { value: name });
  BY_NAME.set(name, type);
  BY_CODE.set(code, type);
  return type;
}

const below = (parent: ErrorType, name: string, code: number): ErrorType => add(name, code, class extends parent {});

add('Error', -1, YueError);
export const RPCError = below(YueError, 'RPCError', -100);
export const TimeoutError = below(RPCError, 'TimeoutError', -101);
export const CancelledError = below(RPCError, 'CancelledError', -102);
export const RuntimeError = below(RPCError, 'RuntimeError', -103);
export const ClientError = below(RPCError, 'ClientError', -200);
export const TransportError = below(ClientError, 'TransportError', -210);
export const NetworkUnreachableError = below(TransportError, 'NetworkUnreachableError', -211);
export const ConnectionRefusedError = below(TransportError, 'ConnectionRefusedError', -212);
export const ConnectionTimeoutError = below(TransportError, 'ConnectionTimeoutError', -213);
export const ConnectionLostError = below(TransportError, 'ConnectionLostError', -214);
export const AddressError = below(TransportError, 'AddressError', -215);
export const TLSError = below(TransportError, 'TLSError', -216);
export const MessageRefusedError = below(ClientError, 'MessageRefusedError', -220);
export const MessageTooLargeError = below(MessageRefusedError, 'MessageTooLargeError', -221);
export const CallError = below(ClientError, 'CallError', -230);
export const NoMethodError = below(CallError, 'NoMethodError', -231);
export const ArgumentError = below(CallError, 'ArgumentError', -232);
export const NotGrantedError = below(CallError, 'NotGrantedError', -233);
export const ServerError = below(RPCError, 'ServerError', -300);
export const ServerBusyError = below(ServerError, 'ServerBusyError', -301);
export const QueueFullError = below(ServerError, 'QueueFullError', -302);
