import type { Connect } from './transport.js';
export declare const tcp: Connect;
export declare const unix: Connect;
export declare const tls: Connect;
