// An interface in the form of `yue types`.

export type Mood = 'happy' | 'sad';

export interface Player {
  hp?: number | null;
  name: string;
}

export interface World {
  /** Adds two numbers. */
  add(a: number, b: number): Promise<number>;
  balance(): Promise<[number, string]>;
  each(f: (player: Player) => boolean | Promise<boolean>): Promise<undefined>;
  spawn(name: string, at?: { x: number; y: number } | null): Promise<Player>;
  counter(): Promise<(step: number) => Promise<number>>;
  chat: {
    /** Both a function and a table of functions. */
    (): Promise<unknown>;
    'a-b'(): Promise<unknown>;
    room: {
      say(who: Player, text: string): Promise<Mood>;
    };
  };
}
