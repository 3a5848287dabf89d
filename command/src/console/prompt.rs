//! The terminal of a console: reads pieces of Lua, has them evaluated, and prints the results.
//!
//! The line editor sets the terminal to raw mode while it reads, and back before code runs; so code's output, and
//! Ctrl-C, are as in any program. Whoever ends the process meanwhile calls [`restore_terminal`].

use super::editor::{Assistant, COMMANDS, is_command};
use super::highlight::highlight;
use super::link::{Link, LoopLine};
use super::{Interrupts, history, print};
use crate::running::Info;
use rustyline::config::BellStyle;
use rustyline::error::ReadlineError;
use rustyline::history::MemHistory;
use rustyline::{CompletionType, Config, Editor};
use std::cell::Cell;
use std::io::IsTerminal;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use yue_scheduler::log_outcome;

/// The width of a terminal that does not tell it.
pub(super) const WIDTH: usize = 80;

/// The program, as the console names it.
pub(super) struct Place {
    greeting: String,
    name: String,
    loop_id: Option<u32>,
}

impl Place {
    pub(super) fn local() -> Place {
        Place {
            greeting: format!("yue {}", env!("CARGO_PKG_VERSION")),
            name: String::new(),
            loop_id: None,
        }
    }

    pub(super) fn remote(info: &Info, loop_id: Option<u32>) -> Place {
        let path = Path::new(&info.name);
        let name = path.file_name().unwrap_or(path.as_os_str());
        let loops = match info.loops {
            1 => "1 loop".to_owned(),
            loops => format!("{loops} loops"),
        };
        Place {
            greeting: format!(
                "yue {}, process {}: {}, {loops}, {} fibers",
                info.version, info.pid, info.name, info.fibers
            ),
            name: name.to_string_lossy().into_owned(),
            loop_id,
        }
    }

    fn prompt(&self, loop_id: Option<u32>) -> String {
        match loop_id {
            Some(loop_id) => format!("{}[{loop_id}]> ", self.name),
            None => format!("{}> ", self.name),
        }
    }
}

type LineEditor = Editor<Assistant, MemHistory>;

/// Talks until the user leaves; returns the exit code.
pub(super) fn talk(link: &Link, place: &Place) -> i32 {
    save_terminal();
    let assistant = Assistant {
        link: link.clone(),
        loop_id: Cell::new(place.loop_id),
        has_colours: has_colours(),
    };
    let mut editor = match new_editor(assistant) {
        Ok(editor) => editor,
        Err(error) => {
            log_outcome(format_args!("cannot use the terminal: {error}"));
            return 1;
        }
    };
    let file = load_history(&mut editor);
    print(&format!("{}; .help lists commands\n", place.greeting));
    let interrupts = Interrupts::of(link);
    loop {
        let line = match editor.readline(&place.prompt(loop_of(&editor))) {
            Ok(line) => line,
            // Ctrl-C drops the line.
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return 0,
            Err(error) => {
                log_outcome(format_args!("cannot read from the terminal: {error}"));
                return 1;
            }
        };
        if line.trim().is_empty() {
            continue;
        }
        remember(&mut editor, file.as_deref(), &line);
        let next = match is_command(&line) {
            true => obey(link, &editor, line.trim()),
            false => evaluate(link, &mut editor, &interrupts, &line),
        };
        if let Next::Leave(code) = next {
            return code;
        }
    }
}

/// The console's next step after a line.
enum Next {
    Line,
    Leave(i32),
}

fn new_editor(assistant: Assistant) -> rustyline::Result<LineEditor> {
    let config = Config::builder()
        .completion_type(CompletionType::List)
        .bell_style(BellStyle::None)
        .max_history_size(history::ENTRIES_MAX)?
        .build();
    let history = MemHistory::with_config(&config);
    let mut editor = Editor::with_history(config, history)?;
    editor.set_helper(Some(assistant));
    Ok(editor)
}

fn loop_of(editor: &LineEditor) -> Option<u32> {
    editor.helper().and_then(|helper| helper.loop_id.get())
}

/// Fills the editor with the lines of earlier sessions; returns the file to which new ones go.
fn load_history(editor: &mut LineEditor) -> Option<PathBuf> {
    let file = history::file()?;
    // There may be none yet.
    for entry in history::load(&file).unwrap_or_default() {
        let _ = editor.add_history_entry(entry);
    }
    Some(file)
}

fn remember(editor: &mut LineEditor, file: Option<&Path>, line: &str) {
    // A line that repeats the last one is not added.
    if !editor.add_history_entry(line).unwrap_or(false) {
        return;
    }
    // Without a place for it, it lasts as long as the console.
    let _ = file.map(|file| history::append(file, line));
}

fn evaluate(link: &Link, editor: &mut LineEditor, interrupts: &Interrupts, line: &str) -> Next {
    let columns = editor.dimensions().map(|(columns, _)| columns);
    let width = columns.map_or(WIDTH, usize::from);
    let mut ends_with_line = true;
    interrupts.begin();
    let outcome = link.evaluate(line, loop_of(editor), width, |output| {
        if !output.is_empty() {
            ends_with_line = output.ends_with('\n');
            print(output);
        }
    });
    interrupts.end();
    if !ends_with_line {
        print("\n");
    }
    match outcome {
        Ok(outcome) if outcome.text.is_empty() => {}
        // A newcomer's first word. A program may have a global of that name.
        Ok(outcome) if outcome.text == "nil" && line.trim() == "help" => print(&help()),
        Ok(outcome) if outcome.ok && has_colours() => {
            print(&format!("{}\n", highlight(&outcome.text)));
        }
        Ok(outcome) if outcome.ok => print(&format!("{}\n", outcome.text)),
        Ok(outcome) => print_error(&outcome.text),
        Err(failure) => {
            print_error(&failure.message);
            if link.loops().is_err() {
                print_error("the program has ended");
                return Next::Leave(1);
            }
        }
    }
    Next::Line
}

/// The first line in red, and the traceback below it.
fn print_error(text: &str) {
    let (first, rest) = text.split_at(text.find('\n').unwrap_or(text.len()));
    match has_colours() {
        true => print(&format!("\x1b[31m{first}\x1b[0m{rest}\n")),
        false => print(&format!("{text}\n")),
    }
}

/// Does what a command says.
fn obey(link: &Link, editor: &LineEditor, line: &str) -> Next {
    let (command, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    match (command, argument.trim()) {
        (".quit", "") => return Next::Leave(0),
        (".help", "") => print(&help()),
        (".loops", "") => match link.loops() {
            Ok(loops) => print(&list(&loops, loop_of(editor))),
            Err(failure) => print_error(&failure.message),
        },
        (".loop", argument) => choose_loop(link, editor, argument),
        _ => print_error(&format!("there is no command {line}; see .help")),
    }
    Next::Line
}

fn choose_loop(link: &Link, editor: &LineEditor, argument: &str) {
    let Some(helper) = editor.helper() else {
        return;
    };
    if argument.is_empty() {
        return helper.loop_id.set(None);
    }
    let known: Vec<_> = match link.loops() {
        Ok(loops) => loops.iter().map(|one| one.number).collect(),
        Err(failure) => return print_error(&failure.message),
    };
    match argument.parse() {
        Ok(number) if known.contains(&number) => helper.loop_id.set(Some(number)),
        _ => print_error(&format!("there is no loop {argument}; see .loops")),
    }
}

fn help() -> String {
    let mut text = "A line of Lua sees the program's globals; a local lives as long as its line.\n\
                    Expressions print their values, and _ is the last one. print writes here.\n\n\
                    Ctrl-C interrupts or drops the line, Ctrl-R searches, Tab completes.\n"
        .to_owned();
    for (name, argument, effect) in COMMANDS {
        text.push_str(&format!(
            "  {:<10} {effect}\n",
            format!("{name} {argument}")
        ));
    }
    text
}

fn list(loops: &[LoopLine], chosen: Option<u32>) -> String {
    let mut text = String::new();
    for one in loops {
        let mark = if chosen == Some(one.number) { '*' } else { ' ' };
        let state = match (one.answers, one.blocked_seconds) {
            (true, _) => String::new(),
            (false, Some(seconds)) => format!(", held for {seconds:.1} s"),
            (false, None) => ", does not answer".to_owned(),
        };
        let LoopLine {
            number,
            thread,
            fibers,
            ..
        } = one;
        text.push_str(&format!(
            "{mark} {number:>3}  {thread:<16} {fibers:>7} fibers{state}\n"
        ));
    }
    text
}

/// Whether the terminal shows colours, and the user wants them (<https://no-color.org>).
fn has_colours() -> bool {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    std::io::stdout().is_terminal()
        && variable("NO_COLOR").is_none()
        && variable("TERM").is_none_or(|terminal| terminal != "dumb")
}

/// The settings of the terminal when the console began.
static TERMINAL: OnceLock<libc::termios> = OnceLock::new();

fn save_terminal() {
    let mut settings = MaybeUninit::uninit();
    // SAFETY: the kernel fills the settings in if it succeeds.
    let settings = unsafe {
        match libc::tcgetattr(libc::STDIN_FILENO, settings.as_mut_ptr()) {
            0 => settings.assume_init(),
            _ => return,
        }
    };
    TERMINAL.get_or_init(|| settings);
}

/// Undoes what the line editor, which may still be reading, has set. It is called when the process ends.
pub(crate) fn restore_terminal() {
    // Ends the mode in which a terminal marks what is pasted.
    const NO_BRACKETED_PASTE: &str = "\x1b[?2004l";
    if let Some(settings) = TERMINAL.get() {
        // SAFETY: settings that the kernel has filled in.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSADRAIN, settings) };
        print(NO_BRACKETED_PASTE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_are_listed_with_their_state() {
        let line = |number, answers, blocked_seconds| LoopLine {
            number,
            thread: "yue loop".to_owned(),
            fibers: 3,
            answers,
            blocked_seconds,
        };
        let text = list(&[line(1, true, None), line(2, false, Some(2.04))], Some(1));
        assert_eq!(
            text,
            "*   1  yue loop               3 fibers\n    2  yue loop               3 fibers, held for 2.0 s\n"
        );
    }
}
