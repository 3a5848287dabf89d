//! The declarations of known functions, and of hostile ones.

use super::{Language, declarations};
use crate::description::{Declaration, Description, Function};

fn function(name: &str, params: &[&str], doc: &str) -> Function {
    Function {
        name: name.to_owned(),
        params: Some(params.iter().map(|&name| name.to_owned()).collect()),
        vararg: false,
        doc: doc.to_owned(),
    }
}

fn declaration(doc: &str) -> Declaration {
    Declaration {
        doc: doc.to_owned(),
    }
}

fn typescript(functions: Vec<Function>, types: &[&str]) -> String {
    let description = Description {
        functions,
        types: types.iter().map(|doc| declaration(doc)).collect(),
        more: false,
    };
    declarations(&description, Language::Ts, "World")
}

/// The declared member of one function.
fn member(params: &[&str], doc: &str) -> String {
    let text = typescript(vec![function("f", params, doc)], &[]);
    let line = text.lines().find(|line| line.starts_with("  f("));
    line.expect("a function").trim().to_owned()
}

#[test]
fn parameters_have_their_types() {
    for (params, doc, expected) in [
        (&["a"][..], "", "f(a: unknown): Promise<unknown>;"),
        (&["a"], "@param a string", "f(a: string): Promise<unknown>;"),
        (
            &["a"],
            "@param a? string",
            "f(a?: string | null): Promise<unknown>;",
        ),
        (
            &["a"],
            "@param a string|nil",
            "f(a?: string | null): Promise<unknown>;",
        ),
        (
            &["a", "b"],
            "@param a? string\n@param b number",
            "f(a: string | null, b: number): Promise<unknown>;",
        ),
        (
            &["a"],
            "@param b string",
            "f(a: unknown): Promise<unknown>;",
        ),
        (
            &["a"],
            "@param a Nobody[]",
            "f(a: unknown[]): Promise<unknown>;",
        ),
        (
            &["a"],
            "@param a table<string, integer>",
            "f(a: { [key: string]: number }): Promise<unknown>;",
        ),
        (
            &["a"],
            "@param a (string|number)[]",
            "f(a: (string | number)[]): Promise<unknown>;",
        ),
        (
            &["a"],
            "@param a fun(x: number, y?: string): boolean",
            "f(a: (x: number, y?: string | null) => boolean | Promise<boolean>): Promise<unknown>;",
        ),
        (
            &["in", "this"],
            "@param in 'a'|'b'",
            "f(in_: \"a\" | \"b\", this_: unknown): Promise<unknown>;",
        ),
    ] {
        assert_eq!(member(params, doc), expected, "{doc}");
    }
}

#[test]
fn results_are_those_that_a_caller_gets() {
    for (doc, expected) in [
        ("@return string", "string"),
        ("@return string?", "undefined | string | null"),
        ("@return nil", "undefined | null"),
        ("@return string, number", "[string, number]"),
        (
            "@return string\n@return number? err",
            "string | [string, number | null]",
        ),
        ("@return string ...", "unknown"),
        ("@return Nobody", "unknown"),
        (
            "@return fun(x: number): string",
            "(x: number) => Promise<string>",
        ),
        (
            "@return { x: number, y?: integer }",
            "{ x: number; y?: number | null }",
        ),
    ] {
        assert_eq!(
            member(&[], doc),
            format!("f(): Promise<{expected}>;"),
            "{doc}"
        );
    }
}

#[test]
fn namespaces_types_and_texts_travel() {
    let functions = vec![
        function("chat", &[], "Both."),
        function(
            "chat.room.say",
            &["who", "text"],
            "Says.\n@param who game.Player The speaker.\n@return Mood # how",
        ),
        function("chat.a-b", &[], "@deprecated"),
    ];
    let types = [
        "@class game.Player: Thing\nA player.\n@field hp? integer Points.\n@field ['a-b'] Maybe\n@field x string",
        "@class Thing\n@field x number\n@field tags string[]",
        "@alias Mood 'happy'|'sad'",
        "@alias Maybe Mood|nil",
        "@alias A B\n",
        "@alias B A|nil\n",
    ];
    let text = typescript(functions.clone(), &types);
    assert_eq!(
        text,
        r#"// Made by `yue types`. Changes are lost when it runs again.

export type Maybe = Mood | null;

export type Mood = "happy" | "sad";

export interface Thing {
  x: number;
  tags: string[];
}

/** A player. */
export interface game_Player {
  /** Points. */
  hp?: number | null;
  "a-b"?: Maybe | null;
  x: string;
  tags: string[];
}

export interface World {
  chat: {
    /** Both. */
    (): Promise<unknown>;
    /** @deprecated */
    "a-b"(): Promise<unknown>;
    room: {
      /**
       * Says.
       *
       * @param who - The speaker.
       * @returns how
       */
      say(who: game_Player, text: unknown): Promise<Mood>;
    };
  };
}
"#
    );
    let description = Description {
        functions,
        types: types.iter().map(|doc| declaration(doc)).collect(),
        more: true,
    };
    let python = declarations(&description, Language::Python, "World");
    for line in [
        "# The server has more functions or types than it lists.",
        "Mood: TypeAlias = Literal[\"happy\", \"sad\"]",
        "class World:",
        "    chat: World_chat",
        "class World_chat:",
        "    async def __call__(self) -> Any:",
        "    # Not declared: procedures[\"a-b\"]",
        "    async def say(self, who: game_Player, text: Any, /) -> Mood:",
        "    async def timed_say(self, seconds: float, who: game_Player, text: Any, /) -> Mood: ...",
        "    def notify_say(self, who: game_Player, text: Any, /) -> bool: ...",
        "    \"hp\": NotRequired[\"int | None\"],  # Points.",
    ] {
        assert!(python.lines().any(|each| each == line), "{line}\n{python}");
    }
    let lua = declarations(&description, Language::Lua, "World");
    for line in [
        "---@meta",
        "---@class game.Player",
        "---@field hp? integer Points.",
        "---@field ['a-b'] Maybe|nil",
        "---@alias Mood 'happy'|'sad'",
        "---@class World.chat",
        "---@overload fun(): any",
        "---@field room World.chat.room",
        "---@param who game.Player The speaker.",
        "---@return Mood # how",
        "function procs.say(who, text) end",
        "procs['a-b'] = function() end",
        "---@field async_say fun(who: game.Player, text: any): yue.Future",
    ] {
        assert!(lua.lines().any(|each| each == line), "{line}\n{lua}");
    }
}

#[test]
fn pythons_aliases_stand_behind_those_that_they_name() {
    let description = Description {
        functions: vec![function("f", &["a"], "@param a A")],
        types: ["@alias A B|C", "@alias B C[]", "@alias C string|A[]"]
            .iter()
            .map(|doc| declaration(doc))
            .collect(),
        more: false,
    };
    let python = declarations(&description, Language::Python, "World");
    let aliases: Vec<&str> = python
        .lines()
        .filter(|line| line.contains(": TypeAlias = "))
        .collect();
    assert_eq!(
        aliases,
        [
            "C: TypeAlias = \"str | List[A]\"",
            "B: TypeAlias = List[C]",
            "A: TypeAlias = B | C",
        ]
    );
}

/// A description that tries to leave the comment, the string, the name and the line that it is put in.
pub(super) fn hostile() -> Description {
    let evil = [
        "*/ evil(); /*",
        "\"\"\" + evil() + \"\"\"",
        "\\\"\"\"",
        "]] evil() --[[",
        "\nevil()\r\nevil()\u{2028}evil()\u{2029}evil()\u{0}\u{1b}[2J\u{202e}",
        "' evil() '",
        "${evil()}`",
        "\\",
        "@class Evil\\",
        "end evil()",
    ];
    let mut functions = Vec::new();
    let mut types = Vec::new();
    for (at, text) in evil.iter().enumerate() {
        let doc = format!(
            "{text}\n{text}\n@param {text} {text}\n@param a {text}\n@param b '{text}'\n@param c {{ {text}: {text} }}\n\
             @param d string {text}\n@param e fun({text}: {text}): {text}\n@return Evil{at} {text}\n\
             @return '{text}' {text}"
        );
        functions.push(function(
            text,
            &[text, "a", "b", "c", "d", "e", "e", "", "end", "class"],
            &doc,
        ));
        functions.push(function(&format!("a{at}.{text}.b"), &[], &doc));
        types.push(declaration(&format!(
            "@class Evil{at}: {text}\n{text}\n@field {text} {text}"
        )));
        types.push(declaration(&format!(
            "@class Evil{at}\n{text}\n@field ['{text}'] '{text}' {text}\n@field ok string {text}"
        )));
        types.push(declaration(&format!("@alias {text} {text}")));
        types.push(declaration(&format!("@alias Mood{at} '{text}'\n{text}")));
    }
    for name in [
        "constructor",
        "new",
        "then",
        "self",
        "None",
        "end",
        "async_x",
        "x",
        "notify_x",
        "__proto__",
    ] {
        functions.push(function(
            name,
            &["self", "self", "World", "Promise"],
            "@return World",
        ));
    }
    types.push(declaration("@class World\n@field World World"));
    types.push(declaration(
        "@class Promise\n@field x Promise\n@field self self",
    ));
    functions.push(function(
        "uses",
        &["a", "b"],
        "@param a World\n@param b Promise",
    ));
    Description {
        functions,
        types,
        more: true,
    }
}

/// The code that is left when comments and strings are removed, for languages whose comments are `//`, `/* */`, `#`, or
/// `--`.
fn code_without_text(text: &str, language: Language) -> String {
    let mut left = String::new();
    let mut rest = text;
    let line_comment = match language {
        Language::Ts => "//",
        Language::Python => "#",
        Language::Lua => "--",
    };
    'next: while let Some(character) = rest.chars().next() {
        if rest.starts_with(line_comment) {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
            continue;
        }
        if language == Language::Ts && rest.starts_with("/*") {
            rest = rest.find("*/").map_or("", |end| &rest[end + 2..]);
            continue;
        }
        let quotes: &[&str] = match language {
            Language::Ts => &["\""],
            Language::Python => &["\"\"\"", "\"", "'"],
            Language::Lua => &["'", "\""],
        };
        for quote in quotes {
            if let Some(mut inner) = rest.strip_prefix(quote) {
                while !inner.starts_with(quote) {
                    assert!(
                        quote.len() == 3 || !inner.starts_with('\n'),
                        "a string ends: {text}"
                    );
                    let escaped = usize::from(inner.starts_with('\\'));
                    inner = &inner[escaped..];
                    let width = inner.chars().next().expect("a string ends").len_utf8();
                    inner = &inner[width..];
                }
                rest = &inner[quote.len()..];
                continue 'next;
            }
        }
        left.push(character);
        rest = &rest[character.len_utf8()..];
    }
    left
}

#[test]
fn no_text_of_a_server_becomes_code() {
    for language in [Language::Ts, Language::Python, Language::Lua] {
        let text = declarations(&hostile(), language, "World");
        let code = code_without_text(&text, language);
        // Identifiers made of hostile names may contain the word; nothing calls it.
        assert!(!code.contains("evil("), "{language:?}:\n{text}");
        for bad in ['\r', '\u{2028}', '\u{2029}', '\0', '\u{1b}', '\u{202e}'] {
            assert!(!text.contains(bad), "{language:?} has {bad:?}");
        }
        // The file begins and ends as it should.
        let (mut depth, mut deepest) = (0_i32, 0);
        for character in code.chars() {
            depth += i32::from("([{".contains(character)) - i32::from(")]}".contains(character));
            deepest = deepest.max(depth);
            assert!(depth >= 0, "{language:?}:\n{code}");
        }
        assert_eq!(depth, 0, "{language:?}:\n{code}");
        assert!(deepest < 12, "{language:?}:\n{code}");
    }
}

#[test]
fn large_and_deep_descriptions_end() {
    let name = vec!["a"; 24].join(".");
    let parents =
        (0..300).map(|at| format!("@class C{at}: C{}, C{}\n@field f{at} C{at}", at + 1, at + 2));
    let types: Vec<Declaration> = parents.map(|doc| declaration(&doc)).collect();
    let functions = (0..300)
        .map(|at| function(&format!("{name}.f{at}"), &["a"], "@param a C0\n@return C5"))
        .collect();
    let description = Description {
        functions,
        types,
        more: false,
    };
    for language in [Language::Ts, Language::Python, Language::Lua] {
        assert!(declarations(&description, language, "World").len() < 4 << 20);
    }
}
