import type { Settings, Symbols } from './options.js';
import { type AnyFunction } from './values.js';
/** A request, or with `id` undefined a notification. */
export interface Request {
    id: number | undefined;
    /** A name, or the id of a function that was passed as a value. */
    method: unknown;
    params: unknown[];
    bytes: number;
    /** The remaining time of the caller in ms. */
    left: unknown;
}
/** The answer to a request: one of the two. */
export interface Answer {
    error?: [number, string, Record<string, unknown>] | undefined;
    results?: unknown[];
}
interface Found {
    owner: unknown;
    method: AnyFunction;
}
/** Finds a dotted name in the layers, from the last to the first. */
export declare function find(layers: Symbols[], name: string): Found | undefined;
/** The names of the functions that the server may call, sorted. */
export declare function describe(layers: Symbols[]): Record<string, unknown>;
export declare class Serving {
    #private;
    readonly layers: Symbols[];
    constructor(settings: Settings, exported: (id: number) => AnyFunction | undefined);
    /** The number of requests that run. */
    get in_flight(): number;
    /** Runs a request and passes its answer to `done`, at once if the function returns no promise. */
    run(request: Request, done: (answer: Answer) => void): void;
    /** The answer in place of results, or of an error's value, that cannot be sent. */
    unsendable(failure: unknown): Answer;
}
export {};
