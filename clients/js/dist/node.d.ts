export * from './types/node.js';
