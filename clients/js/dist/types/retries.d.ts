import type { YueError } from './errors.js';
import type { Settings } from './options.js';
import type { Reason } from './reasons.js';
export declare class Retries {
    #private;
    /** Why there is no link: calls that time out before the next one report it. */
    trouble: string | undefined;
    constructor(settings: Settings);
    /** Counts an attempt. Returns the wait before it. */
    next_wait_ms(): number;
    granted(): void;
    /** The next call starts from the beginning. */
    rest(): void;
    /** Whether to try again after an attempt that failed. */
    after_failure(error: YueError): boolean;
    /** Whether to make another link after one that ended, where the program leaves that open. It helps against one that
     * broke, not against a refusal. */
    after_end({ kind }: Reason): boolean;
    /** A link ended, and another one is made. */
    begin({ text }: Reason): void;
}
