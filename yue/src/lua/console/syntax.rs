//! Whether a text is a complete piece of Lua: for the reader of a console, which has no VM of the program.

use std::cell::RefCell;
use yue_luajit::Vm;
use yue_luajit::mlua::{Error, Lua};

/// The compiler's judgement of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Syntax {
    /// It can be run.
    Complete,
    /// More lines may follow, and must.
    Incomplete,
    /// It cannot be run, and the message says why.
    Wrong(String),
}

thread_local! {
    /// A VM that only compiles.
    static COMPILER: RefCell<Option<Vm>> = const { RefCell::new(None) };
}

/// Compiles a text, which may be an expression, or begin with `=`, as the console does, and runs nothing.
///
/// ```
/// use yue::lua::{Syntax, check_syntax};
///
/// assert_eq!(check_syntax("1 + 1"), Syntax::Complete);
/// assert_eq!(check_syntax("for i = 1, 3 do"), Syntax::Incomplete);
/// assert_eq!(check_syntax("x x"), Syntax::Wrong("console:1: '=' expected near 'x'".to_owned()));
/// ```
pub fn check_syntax(text: &str) -> Syntax {
    COMPILER.with_borrow_mut(|compiler| {
        if compiler.is_none() {
            *compiler = Vm::new().ok();
        }
        match compiler {
            Some(vm) => vm.with_mlua(|lua| check(lua, text)),
            // Without memory for a VM the program may still have some.
            None => Syntax::Complete,
        }
    })
}

fn check(lua: &Lua, text: &str) -> Syntax {
    let expression = text.trim_start().strip_prefix('=');
    let compile = |text: String| lua.load(text).set_name("=console").into_function();
    let Err(of_expression) = compile(format!("return nil, {}", expression.unwrap_or(text))) else {
        return Syntax::Complete;
    };
    // `= ` alone is an empty statement.
    let error = match expression {
        Some(expression) if !expression.trim().is_empty() => of_expression,
        _ => match compile(expression.unwrap_or(text).to_owned()) {
            Ok(_) => return Syntax::Complete,
            Err(error) => error,
        },
    };
    match error {
        Error::SyntaxError { message, .. } if is_cut(&message) => Syntax::Incomplete,
        Error::SyntaxError { message, .. } => Syntax::Wrong(message),
        other => Syntax::Wrong(other.to_string()),
    }
}

/// Whether the compiler has met the end of the text too early. A string in quotes cannot continue on another line.
fn is_cut(message: &str) -> bool {
    message.contains("near '<eof>'") && !message.contains("unfinished string")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_ends_too_early_is_incomplete() {
        for text in [
            "f(",
            "= 1 +",
            "local t = {\n1,",
            "if x then\nprint(1)",
            "[[ text",
        ] {
            assert_eq!(check_syntax(text), Syntax::Incomplete, "{text}");
        }
        for text in [
            "",
            " ",
            "=",
            "= 1, 2",
            "x = 1",
            "return 1",
            "-- a remark",
            "t.x",
            "do end",
        ] {
            assert_eq!(check_syntax(text), Syntax::Complete, "{text}");
        }
        for text in ["1 2", "end", "x = = 1", "'text"] {
            assert!(matches!(check_syntax(text), Syntax::Wrong(_)), "{text}");
        }
    }
}
