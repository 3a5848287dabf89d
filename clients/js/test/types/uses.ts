// What must be accepted, and with `@ts-expect-error` what must not. The compiler checks it; nothing runs it.
import {
  Connection, NoMethodError, TimeoutError, YueError, connection, open, results, type Options, type Procedures,
} from 'yue-client';
import { open as open_in_browser } from 'yue-client/browser';
import type { Mood, Player, World } from './world.js';

const c = open<World>('tcp://127.0.0.1:8080', { timeout: 2 });

export async function accepted(): Promise<void> {
  const sum: number = await c.add(1, 2);
  const [amount, currency]: [number, string] = await c.balance();
  const mood: Mood = await c.chat.room.say({ name: 'frodo' }, 'hello');
  const player: Player = await c.spawn('sam');
  await c.spawn('sam', { x: 1, y: 2 });
  await c.each((each) => each.name === 'sam');
  await c.each(async (each) => (each.hp ?? 0) > 1);
  const next: number = await (await c.counter())(sum + amount);
  const timed: number = await c.timed_add(0.5, 1, 2);
  const async_sum: Promise<number> = c.async_add(1, 2);
  const queued: boolean = c.notify_add(1, 2);
  const queued_too: boolean = c.chat.room.timed_notify_say(1, player, 'hello');
  const same: number = await c['=add'](1, 2);
  const unknown_result: unknown = await c.chat();
  await c.chat['a-b']();
  const conn: Connection = connection(c);
  const off: () => void = conn.on('close', (reason: string) => console.log(reason));
  const answer: unknown = await conn.call('add', [1, 2], { timeout: 1, signal: new AbortController().signal });
  const names: string[] = (await conn.describe()).map(({ name }) => name);
  void [currency, mood, next, timed, async_sum, queued, queued_too, same, unknown_result, off, answer, names];
}

export async function refused(): Promise<void> {
  // @ts-expect-error A wrong type of argument.
  await c.add('1', 2);
  // @ts-expect-error Too few arguments.
  await c.add(1);
  // @ts-expect-error No such function.
  await c.subtract(1, 2);
  // @ts-expect-error A wrong type of result.
  const text: string = await c.add(1, 2);
  // @ts-expect-error It returns a promise.
  const sum: number = c.add(1, 2);
  // @ts-expect-error The seconds are missing.
  await c.timed_add(1, 2);
  // @ts-expect-error A notification takes the same arguments.
  c.notify_add('x', 2);
  // @ts-expect-error A table has no prefixed form.
  await c.chat.notify_room();
  // @ts-expect-error A field is missing.
  await c.chat.room.say({ hp: 3 }, 'hello');
  // @ts-expect-error Procedures cannot be assigned to.
  c.add = async () => 1;
  // @ts-expect-error A misspelt option.
  open<World>('tcp://127.0.0.1:8080', { timeuot: 2 });
  void [text, sum];
}

// Without an interface everything can be called, and procedures are not thenable.
export async function unknown_server(): Promise<void> {
  const any_server = await open_in_browser('/game');
  const anything: string = await any_server.world.join('x');
  void anything;
}

// A function that takes procedures, options, and errors.
export async function join(server: Procedures<World>, name: string): Promise<Player | undefined> {
  try {
    return await server.spawn(name);
  } catch (error) {
    if (error instanceof TimeoutError || error instanceof NoMethodError) return undefined;
    if (error instanceof YueError && error.retryable && error.is_a('TransportError')) return join(server, name);
    throw error;
  }
}

export const options: Options = {
  symbols: { table_number: () => 7, two: () => results(1, 2), nested: { f: async (x: number) => x } },
  accept: (conn, value) => conn.connected && value !== false,
  close: () => true,
  retry: true,
  keepalive: false,
};

void join(c, 'frodo');
