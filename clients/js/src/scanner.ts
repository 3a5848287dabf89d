// Finds the ends of messages in a stream of bytes, without decoding them.
//
// A message may arrive in any pieces, so the scanner keeps its position between them. It also holds the limits that
// must apply before anything is decoded: a hostile peer can claim an array of four billion values in five bytes.

/** The bytes are not msgpack-rpc, or break a limit of the whole link: the start of the next message is unknown. */
export class Malformed extends Error {
  constructor(
    message: string,
    readonly too_large = false,
  ) {
    super(message);
  }
}

/** Deeper values end the link; between `nesting_max` and this they are an error of their call. */
const DEPTH_MAX = 4096;

/** Estimated bytes of an object or array, and of a value in one, in a JavaScript engine. */
const CONTAINER_BYTES = 64;
const VALUE_BYTES = 16;

export class Scanner {
  /** The position behind the last value that was scanned, from the start of the message. */
  #at = 0;
  /** The values that are missing in the innermost container, and in those around it. */
  #missing = 1;
  #outer: number[] = [];
  #deepest = 0;
  /** Of the message that was found: whether it has integers of 64 bits, which are decoded as bigint. */
  wide = false;
  /** An estimate of the memory that its values take. */
  memory = 0;

  constructor(private readonly message_max: number) {}

  /** The nesting of the message that was found. */
  get depth(): number {
    return this.#deepest;
  }

  /** Returns the end of the message that begins at `start`, or -1 if more bytes are needed. */
  find(bytes: Uint8Array, start: number): number {
    if (this.#at === 0) {
      this.wide = false;
      this.memory = this.#deepest = 0;
    }
    while (this.#missing > 0) {
      const position = start + this.#at;
      if (position >= bytes.length) return -1;
      const head = bytes[position]!;
      if (this.#at === 0 && !((head >= 0x90 && head < 0xa0) || head === 0xdc || head === 0xdd)) {
        throw new Malformed('a message must be an array');
      }
      const header = header_bytes(head);
      if (position + header > bytes.length) return -1;
      const size = header > 1 ? read_uint(bytes, position + 1, length_bytes(head)) : 0;
      this.#take(head, header, size);
    }
    const end = start + this.#at;
    if (end > bytes.length) return -1;
    this.#at = 0;
    this.#missing = 1;
    return end;
  }

  #take(head: number, header: number, size: number): void {
    let payload = 0;
    let values = 0;
    if (head >= 0x80 && head < 0x90) values = 2 * (head & 15);
    else if (head >= 0x90 && head < 0xa0) values = head & 15;
    else if (head >= 0xa0 && head < 0xc0) payload = head & 31;
    else if (head >= 0xc4 && head <= 0xc6) payload = size;
    else if (head >= 0xc7 && head <= 0xc9) payload = size + 1;
    else if (head >= 0xca && head <= 0xd3) {
      payload = FIXED[head - 0xca]!;
      this.wide ||= head === 0xcf || head === 0xd3;
    } else if (head >= 0xd4 && head <= 0xd8) payload = 1 + (1 << (head - 0xd4));
    else if (head >= 0xd9 && head <= 0xdb) payload = size;
    else if (head === 0xdc || head === 0xdd) values = size;
    else if (head === 0xde || head === 0xdf) values = 2 * size;
    else if (head === 0xc1) throw new Malformed('the byte 0xc1 is not msgpack');
    this.#at += header + payload;
    // Each missing value has one byte at least.
    if (this.#at + values > this.message_max) {
      throw new Malformed(`a message is larger than message_max, ${this.message_max} bytes`, true);
    }
    this.memory += VALUE_BYTES + payload;
    this.#missing -= 1;
    if (values > 0) {
      this.memory += CONTAINER_BYTES;
      this.#outer.push(this.#missing);
      this.#missing = values;
      this.#deepest = Math.max(this.#deepest, this.#outer.length);
      if (this.#outer.length > DEPTH_MAX) throw new Malformed(`a message is nested deeper than ${DEPTH_MAX} levels`);
    }
    while (this.#missing === 0 && this.#outer.length > 0) this.#missing = this.#outer.pop()!;
  }
}

/** The payloads of 0xca (float 32) to 0xd3 (int 64). */
const FIXED = [4, 8, 1, 2, 4, 8, 1, 2, 4, 8];

/** The bytes of the length that follows the first byte. */
function length_bytes(head: number): number {
  if (head >= 0xc4 && head <= 0xc9) return 1 << ((head - 0xc4) % 3);
  if (head >= 0xd9 && head <= 0xdb) return 1 << (head - 0xd9);
  if (head >= 0xdc && head <= 0xdf) return head & 1 ? 4 : 2;
  return 0;
}

/** The first byte, and the length. (The type of an ext value counts as payload.) */
const header_bytes = (head: number) => 1 + length_bytes(head);

function read_uint(bytes: Uint8Array, at: number, count: number): number {
  let value = 0;
  for (let i = 0; i < count; i += 1) value = value * 256 + bytes[at + i]!;
  return value;
}

/** The kind and the msgid at the start of a message that cannot be decoded, where they can be read. */
export function peek(bytes: Uint8Array, start: number): { kind: number; id: number } | undefined {
  const first = bytes[start]! === 0xdc ? start + 3 : bytes[start]! === 0xdd ? start + 5 : start + 1;
  const kind = bytes[first]!;
  const head = bytes[first + 1]!;
  const count = head >= 0xcc && head <= 0xce ? 1 << (head - 0xcc) : 0;
  if (!(kind <= 1) || first + 2 + count > bytes.length) return undefined;
  if (head < 0x80) return { kind, id: head };
  return count > 0 ? { kind, id: read_uint(bytes, first + 2, count) } : undefined;
}
