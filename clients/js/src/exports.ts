// What both entries export besides `open`.

export {
  AddressError, ArgumentError, CallError, CancelledError, ClientError, ConnectionLostError, ConnectionRefusedError,
  ConnectionTimeoutError, MessageRefusedError, MessageTooLargeError, NetworkUnreachableError, NoMethodError,
  NotGrantedError, QueueFullError, RPCError, RuntimeError, ServerBusyError, ServerError, TLSError, TimeoutError,
  TransportError, YueError, type ErrorDetails, type ErrorType,
} from './errors.js';
export { Connection, type CallOptions, type Described } from './connection.js';
export type { EventName } from './events.js';
export { connection } from './procedures.js';
export { ExtData, results, type Results } from './values.js';
export type { Options, Symbols } from './options.js';
export type { AnyProcedures, Procedures } from './types.js';
