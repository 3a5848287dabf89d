import type { Connect } from './transport.js';
/** The part of a WebSocket that is used here. */
export interface Socket {
    binaryType: string;
    readonly bufferedAmount: number;
    readonly readyState: number;
    onopen: ((event: any) => void) | null;
    onmessage: ((event: any) => void) | null;
    onerror: ((event: any) => void) | null;
    onclose: ((event: any) => void) | null;
    send(data: Uint8Array<ArrayBuffer>): void;
    close(code?: number, reason?: string): void;
}
/** Makes links by sockets that `create` makes. */
export declare function websocket(create: (address: string, protocol: string) => Socket): Connect;
