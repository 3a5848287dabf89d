/** The link is up; the server has granted (with its value); the link has ended (with the reason); a call has timed
 * out. */
export type EventName = 'open' | 'accept' | 'close' | 'timeout';
type Listener = (value: any) => void;
export declare class Events {
    #private;
    constructor(log: (text: string, error: unknown) => void);
    on(event: EventName, listener: Listener): () => void;
    emit(event: EventName, value?: unknown): void;
}
export {};
