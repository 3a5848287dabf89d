import { type Open } from './open.js';
export * from './exports.js';
export declare const open: Open;
