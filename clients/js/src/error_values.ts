// Errors as they travel.

import { BY_CODE, BY_NAME, RPCError, RuntimeError, YueError } from './errors.js';

/** Messages and tracebacks are cut to this length, as in yue. */
const TEXT_MAX = 65_536;

const text = (value: unknown) => (typeof value === 'string' ? value.slice(0, TEXT_MAX) : undefined);

/** The error that came over the wire: `[code, message, {type, traceback, retryable, value}]`, or any foreign value. */
export function from_wire(wire: unknown): YueError {
  if (typeof wire === 'string') return new RPCError(wire);
  if (!Array.isArray(wire) || typeof wire[0] !== 'number' || typeof wire[1] !== 'string') {
    return new RPCError('the peer answered with an error of a foreign form', { value: wire });
  }
  const [code, message, data] = wire as [number, string, unknown];
  const details: Record<string, unknown> = typeof data === 'object' && data !== null ? { ...data } : {};
  const type = BY_NAME.get(text(details.type) ?? '') ?? BY_CODE.get(code) ?? RPCError;
  return new type(message, {
    code,
    value: details.value,
    retryable: details.retryable === true,
    traceback: text(details.traceback),
  });
}

/** Any failure as it travels to the peer. */
export function to_wire(failure: unknown, with_traceback: boolean): [number, string, Record<string, unknown>] {
  const error = as_error(failure);
  const data: Record<string, unknown> = { type: error.type };
  if (error.retryable) data.retryable = true;
  if (error.value !== undefined) data.value = error.value;
  if (with_traceback) data.traceback = text((failure as Error | undefined)?.stack ?? error.stack);
  return [error.code, text(error.msg) as string, data];
}

/** What a handler threw, as an error of the tree. */
export function as_error(failure: unknown): YueError {
  if (failure instanceof YueError) return failure;
  if (failure instanceof Error) return new RuntimeError(failure.message);
  if (typeof failure === 'string') return new RuntimeError(failure);
  return new RuntimeError('the handler threw a value that is not an error', { value: failure });
}
