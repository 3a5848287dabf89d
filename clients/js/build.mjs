// Builds the files that programs load: `dist/yue.js` for browsers and `dist/node.js` for Node.js. Each is one ES module
// with everything in it. A page loads the first at its start, so its size counts: see `SIZE_MAX`. The second is readable:
// Node.js prints the line of an error that nobody catches.
import { build } from 'esbuild';
import { readFileSync, writeFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';
import { minify } from 'terser';

/** Bytes of `dist/yue.js` by gzip. */
const SIZE_MAX = 15_000;

const LICENSES = `// yue-client, MIT OR Apache-2.0. With @msgpack/msgpack, Copyright 2019 The MessagePack Community,
// ISC: https://github.com/msgpack/msgpack-javascript/blob/main/LICENSE`;

// Names that get shorter ones: methods and fields of the classes Encoder and Decoder of @msgpack/msgpack that are
// private in TypeScript, and those that the modules of this package use among each other. The tests run built files.
const privates = new RegExp(`^(${[
  'doEncode', 'doDecodeSync', 'encode[A-Z]\\w+', 'decode[A-Z]\\w+', '(read|write|look)[A-Z][A-Za-z]*\\d+a?(AsBigInt)?',
  'push(Array|Map)State', 'hasRemaining', 'ensureBufferSizeToWrite', 'stackHeadPosition', 'headByte', 'totalPos',
  'reinitializeState', 'resizeBuffer', 'writeStringHeader', 'readHeadByte', 'readArraySize', 'setBuffer',
  'createExtraByteError', 'countWithoutUndefined', 'stateIsMapKey', 'getUninitializedStateFromPool',
  'max(Str|Bin|Array|Map|Ext)Length', 'initialBufferSize', 'sortKeys', 'forceFloat32',
  'forceIntegerToFloat', 'rawStrings', 'keyDecoder',
  'take_(written|held|id|releases)', 'record_release', 'check_fresh', 'end_link', 'exported', 'start_notification',
  'unsendable', 'owned_by_sender', 'layers', 'carried', 'written', 'crossings', 'callable', 'too_large', 'prefixes',
  'buffered', 'opened', 'closed', 'next_wait_ms', 'after_(end|failure)', 'granted',
].join('|')})$`);

// What this package does not use of @msgpack/msgpack, and a bundler cannot know: its own extensions and cache of keys,
// which are defaults that values.ts replaces, and the methods of Decoder that read streams.
const unused_parts = {
  name: 'unused parts of @msgpack/msgpack',
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /\/(ExtensionCodec|CachedKeyDecoder)\.mjs$/ }, () => ({ path: 'empty', namespace: 'empty' }));
    const empty = 'export const ExtensionCodec = {}; export class CachedKeyDecoder {}';
    onLoad({ filter: /./, namespace: 'empty' }, () => ({ contents: empty }));
    onLoad({ filter: /\/Decoder\.mjs$/ }, ({ path }) => {
      const text = readFileSync(path, 'utf8');
      const [begin, end] = ['    *decodeMulti(buffer) {', '    doDecodeSync() {'].map((line) => text.indexOf(line));
      if (!(begin > 0 && end > begin)) throw new Error('Decoder.mjs has another order of methods');
      return { contents: text.slice(0, begin) + text.slice(end) };
    });
  },
};

async function bundle(entry, file, platform, small) {
  const { outputFiles } = await build({
    entryPoints: [entry],
    bundle: true,
    format: 'esm',
    platform,
    target: 'es2022',
    ...(small && { mangleProps: privates, reserveProps: /^encodeInto$/ }),
    mainFields: ['module', 'main'],
    plugins: [unused_parts],
    logLevel: 'warning',
    write: false,
  });
  // Without the place of the packages, which differs.
  const readable = outputFiles[0].text.replace(/^\/\/ \S*\/(?=node_modules\/)/gm, '// ');
  const shortened = small && await minify(readable, { module: true, ecma: 2020, compress: { passes: 3 } });
  const text = `${LICENSES}\n${shortened ? `${shortened.code}\n` : readable}`;
  writeFileSync(file, text);
  return gzipSync(text, { level: 9 }).length;
}

// For programs that import the file itself, such as pages of a clone.
writeFileSync('dist/yue.d.ts', "export * from './types/index.js';\n");
writeFileSync('dist/node.d.ts', "export * from './types/node.js';\n");
await bundle('src/node.ts', 'dist/node.js', 'node', false);
const size = await bundle('src/index.ts', 'dist/yue.js', 'browser', true);
console.log(`dist/yue.js: ${size} bytes by gzip`);
if (size > SIZE_MAX) throw new Error(`dist/yue.js is larger than ${SIZE_MAX} bytes by gzip`);
