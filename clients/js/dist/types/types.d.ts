type AnyCallable = (...args: any[]) => any;
/** The forms of one function: its arguments are the same, and results arrive in a promise. */
type Call<F> = F extends (...args: infer A) => infer R ? (...args: A) => Promise<Awaited<R>> : never;
type Timed<F> = F extends (...args: infer A) => infer R ? (seconds: number, ...args: A) => Promise<Awaited<R>> : never;
type Notify<F> = F extends (...args: infer A) => any ? (...args: A) => boolean : never;
type TimedNotify<F> = F extends (...args: infer A) => any ? (seconds: number, ...args: A) => boolean : never;
/** A name may be a function, a table of functions, or both. */
type Member<M> = M extends AnyCallable ? ([keyof M] extends [never] ? Call<M> : Call<M> & Procedures<M>) : Procedures<M>;
/** The names of functions in an interface. */
type Names<T> = {
    [K in keyof T & string]: T[K] extends AnyCallable ? K : never;
}[keyof T & string];
/** The server's procedures: each function of the interface returns a promise, and has its prefixed forms. */
export type Procedures<T> = {
    readonly [K in keyof T & string]: Member<T[K]>;
} & {
    readonly [K in Names<T> as `=${K}` | `async_${K}`]: Call<T[K]>;
} & {
    readonly [K in Names<T> as `timed_${K}`]: Timed<T[K]>;
} & {
    readonly [K in Names<T> as `notify_${K}`]: Notify<T[K]>;
} & {
    readonly [K in Names<T> as `timed_notify_${K}`]: TimedNotify<T[K]>;
};
/** Procedures of which nothing is known. */
export interface AnyProcedures {
    readonly then: undefined;
    readonly [name: string]: any;
}
export {};
