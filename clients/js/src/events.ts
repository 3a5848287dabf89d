// The events of a connection, and their listeners.

/** The link is up; the server has granted (with its value); the link has ended (with the reason); a call has timed
 * out. */
export type EventName = 'open' | 'accept' | 'close' | 'timeout';

type Listener = (value: any) => void;

export class Events {
  readonly #listeners = new Map<EventName, Set<Listener>>();
  readonly #log: (text: string, error: unknown) => void;

  constructor(log: (text: string, error: unknown) => void) {
    this.#log = log;
  }

  on(event: EventName, listener: Listener): () => void {
    const all = this.#listeners.get(event) ?? new Set();
    this.#listeners.set(event, all.add(listener));
    return () => void all.delete(listener);
  }

  emit(event: EventName, value?: unknown): void {
    for (const listener of [...(this.#listeners.get(event) ?? [])]) {
      try {
        listener(value);
      } catch (error) {
        this.#log(`yue: a listener of ${event} failed`, error);
      }
    }
  }
}
