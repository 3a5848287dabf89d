//! The terminal: keys, drawing, and its restoration at every end.
//!
//! It uses the terminal's own foreground and background, a few of its colours, bold and reverse, so it looks right on
//! dark and light terminals.

use super::sampler::{Event, Sample, Sampler};
use super::view::{self, Line, Tone, View};
use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{self, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::style::{Color, Modifier, Style};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;
use yue_io::signal::{self, Signal};

/// The time that keys are waited for before the sampler's events are looked at.
const POLL_MS: i32 = 50;

const HELP: [&str; 12] = [
    "1 2 3 4      overview, fibers, connections, calls",
    "Tab          the next view; Shift-Tab the previous one",
    "p, Space     pause, and continue",
    "Up, Down     scroll by a line; k and j do the same",
    "PgUp, PgDn   scroll by a page; Home and End to the ends",
    "?            show this, and leave it",
    "q, Esc       quit; Ctrl-C does the same",
    "",
    "BUSY is the share of a processor that the loop uses. A loop",
    "that is held runs one fiber without a break: no other one of",
    "that loop runs meanwhile. NOW counts requests that run, and",
    "times are from a handler's start to its answer, with waits.",
];

struct Screen {
    view: View,
    sample: Option<Box<Sample>>,
    paused: bool,
    help: bool,
    /// The first line of the body that is visible.
    top: usize,
    /// The lines of the body that fit, as of the last drawing.
    page: usize,
    /// A text for the user: the program has ended, or does not answer.
    notice: Option<String>,
}

/// The action after a key.
enum After {
    Stay,
    Quit(i32),
}

/// Restores the terminal, also when the drawing panics.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Shows the program until the user quits; returns the exit code.
///
/// # Errors
/// If there is no such program, or the terminal cannot be used.
pub(super) fn run(sampler: &Sampler) -> Result<i32, String> {
    // Errors of the search are for the plain terminal.
    let sample = match sampler.next() {
        Event::Failed(text) => return Err(text),
        Event::Ended => return Err("the program has ended".to_owned()),
        Event::Silent(text) => return Err(format!("the program does not answer: {text}")),
        Event::Sample(sample) => sample,
    };
    let ended_by = Arc::new(AtomicI32::new(0));
    let receiver = ended_by.clone();
    let signals = [Signal::TERM, Signal::INT, Signal::HUP];
    let on_signal = move |signal: Signal| receiver.store(signal.number(), Ordering::Relaxed);
    let _subscription = signal::subscribe_off_loop(&signals, on_signal);
    let text = |error: std::io::Error| format!("the terminal cannot be used: {error}");
    let mut terminal = ratatui::try_init().map_err(text)?;
    let _restore = Restore;
    let mut screen = Screen {
        view: View::Overview,
        sample: Some(sample),
        paused: false,
        help: false,
        top: 0,
        page: 1,
        notice: None,
    };
    let mut changed = true;
    loop {
        if changed {
            terminal.draw(|frame| screen.draw(frame)).map_err(text)?;
        }
        if !wait_for_input() {
            return Ok(128 + Signal::HUP.number());
        }
        changed = event::poll(Duration::ZERO).map_err(text)?;
        if changed
            && let event::Event::Key(key) = event::read().map_err(text)?
            && key.kind != KeyEventKind::Release
        {
            if let After::Quit(code) = screen.press(key) {
                return Ok(code);
            }
            sampler.show(screen.view);
        }
        match ended_by.load(Ordering::Relaxed) {
            0 => {}
            signal => return Ok(128 + signal),
        }
        while let Some(event) = sampler.try_next() {
            screen.receive(event);
            changed = true;
        }
    }
}

/// Waits for a key or a resize, for [`POLL_MS`] at most. Returns `false` if the terminal is gone: crossterm would read
/// its end again and again, and never return.
fn wait_for_input() -> bool {
    let mut entry = libc::pollfd {
        fd: libc::STDIN_FILENO,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one live, writable entry. A signal, such as that of a resize, interrupts it, and is not a fault.
    unsafe { libc::poll(&mut entry, 1, POLL_MS) };
    entry.revents & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) == 0
}

impl Screen {
    fn receive(&mut self, event: Event) {
        match event {
            Event::Sample(sample) => {
                self.notice = None;
                if !self.paused {
                    self.sample = Some(sample);
                }
            }
            Event::Silent(text) => {
                self.notice = Some(format!("the program does not answer: {text}"));
            }
            Event::Ended | Event::Failed(_) => {
                let time = crate::table::clock(crate::table::unix_seconds());
                self.notice = Some(format!("the program ended at {} UTC", &time[..8]));
            }
        }
    }

    fn press(&mut self, key: KeyEvent) -> After {
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return After::Quit(128 + Signal::INT.number());
        }
        match key.code {
            KeyCode::Char('q') => return After::Quit(0),
            KeyCode::Esc if self.help => self.help = false,
            KeyCode::Esc => return After::Quit(0),
            KeyCode::Char('?' | 'h') => self.help = !self.help,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char(digit @ '1'..='4') => {
                self.show(View::ALL[digit as usize - '1' as usize]);
            }
            KeyCode::Tab => self.show(self.view.after(1)),
            KeyCode::BackTab => self.show(self.view.after(View::ALL.len() - 1)),
            KeyCode::Up | KeyCode::Char('k') => self.top = self.top.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.top += 1,
            KeyCode::PageUp => self.top = self.top.saturating_sub(self.page),
            KeyCode::PageDown => self.top += self.page,
            KeyCode::Home => self.top = 0,
            // The drawing limits it to the last page.
            KeyCode::End => self.top = usize::MAX / 2,
            _ => {}
        }
        After::Stay
    }

    fn show(&mut self, view: View) {
        self.help = false;
        if self.view != view {
            self.view = view;
            self.top = 0;
        }
    }

    fn draw(&mut self, frame: &mut Frame<'_>) {
        let area = frame.area();
        let (width, height) = (usize::from(area.width), usize::from(area.height));
        let buffer = frame.buffer_mut();
        let Some(sample) = &self.sample else {
            return;
        };
        let mut row = 0;
        for line in view::head(sample, width) {
            put(buffer, row, &line, width);
            row += 1;
        }
        self.draw_tabs(buffer, row, width);
        row += 2;
        let help = |text: &&str| Line {
            text: (*text).to_owned(),
            tone: Tone::Plain,
        };
        let body = match self.help {
            true => HELP.iter().map(help).collect(),
            false => view::body(sample, self.view, width),
        };
        // The last row is the status.
        self.page = height.saturating_sub(row + 1).max(1);
        self.top = self.top.min(body.len().saturating_sub(self.page));
        for line in body.iter().skip(self.top).take(self.page) {
            put(buffer, row, line, width);
            row += 1;
        }
        let left = body.len().saturating_sub(self.top + self.page);
        self.draw_status(buffer, height.saturating_sub(1), width, left);
    }

    fn draw_tabs(&self, buffer: &mut Buffer, row: usize, width: usize) {
        let mut column = 0;
        for (index, view) in View::ALL.into_iter().enumerate() {
            let text = format!(" {} {} ", index + 1, view.name());
            let style = match view == self.view && !self.help {
                true => Style::new().add_modifier(Modifier::REVERSED),
                false => Style::new(),
            };
            put_at(buffer, column, row, &text, style, width);
            column += text.len() + 1;
        }
    }

    fn draw_status(&self, buffer: &mut Buffer, row: usize, width: usize, left: usize) {
        let more = match left {
            0 => String::new(),
            1 => "  (1 more line below)".to_owned(),
            count => format!("  ({count} more lines below)"),
        };
        let (text, style) = match (&self.notice, self.paused) {
            (Some(notice), _) => (
                format!("{notice}; q quits"),
                Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
            ),
            (None, true) => (
                format!("paused; p continues{more}"),
                Style::new().fg(Color::Yellow).add_modifier(Modifier::BOLD),
            ),
            (None, false) => (
                format!("q quit  Tab view  p pause  ? help{more}"),
                Style::new().add_modifier(Modifier::DIM),
            ),
        };
        put_at(
            buffer,
            0,
            row,
            &crate::table::cut(&text, width),
            style,
            width,
        );
    }
}

fn put(buffer: &mut Buffer, row: usize, line: &Line, width: usize) {
    let style = match line.tone {
        Tone::Plain => Style::new(),
        Tone::Title => Style::new().add_modifier(Modifier::BOLD),
        Tone::Names => Style::new().fg(Color::Cyan),
        Tone::Alarm => Style::new().fg(Color::Red),
        Tone::Faint => Style::new().add_modifier(Modifier::DIM),
    };
    put_at(buffer, 0, row, &line.text, style, width);
}

/// Writes a text where there is room for it.
fn put_at(buffer: &mut Buffer, column: usize, row: usize, text: &str, style: Style, width: usize) {
    let area = buffer.area;
    if row >= usize::from(area.height) || column >= width {
        return;
    }
    // Both are less than the area's sizes, which are of this type.
    let (column, row) = (column as u16, row as u16);
    buffer.set_stringn(column, row, text, width - usize::from(column), style);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn screen() -> Screen {
        Screen {
            view: View::Overview,
            sample: None,
            paused: false,
            help: false,
            top: 0,
            page: 10,
            notice: None,
        }
    }

    fn press(screen: &mut Screen, code: KeyCode) -> Option<i32> {
        match screen.press(KeyEvent::new(code, KeyModifiers::NONE)) {
            After::Quit(code) => Some(code),
            After::Stay => None,
        }
    }

    #[test]
    fn keys_choose_views_and_quit() {
        let mut screen = screen();
        assert_eq!(press(&mut screen, KeyCode::Char('3')), None);
        assert_eq!(screen.view, View::Connections);
        press(&mut screen, KeyCode::PageDown);
        assert_eq!(screen.top, 10);
        press(&mut screen, KeyCode::Tab);
        assert_eq!((screen.view, screen.top), (View::Calls, 0));
        press(&mut screen, KeyCode::Tab);
        press(&mut screen, KeyCode::BackTab);
        assert_eq!(screen.view, View::Calls);
        press(&mut screen, KeyCode::Char('?'));
        assert!(screen.help);
        assert_eq!(press(&mut screen, KeyCode::Esc), None, "it leaves the help");
        press(&mut screen, KeyCode::Char('p'));
        assert!(screen.paused);
        assert_eq!(press(&mut screen, KeyCode::Esc), Some(0));
        assert_eq!(press(&mut screen, KeyCode::Char('q')), Some(0));
        let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert!(matches!(screen.press(control_c), After::Quit(130)));
    }

    #[test]
    fn the_end_of_the_program_is_shown() {
        let mut screen = screen();
        screen.receive(Event::Ended);
        let notice = screen.notice.clone().unwrap_or_default();
        assert!(notice.starts_with("the program ended at "), "{notice}");
        assert_eq!(press(&mut screen, KeyCode::Char('q')), Some(0));
    }

    #[test]
    fn a_text_that_does_not_fit_is_left_out() {
        let mut buffer = Buffer::empty(ratatui::layout::Rect::new(0, 0, 5, 1));
        put_at(&mut buffer, 3, 0, "abc", Style::new(), 5);
        put_at(&mut buffer, 5, 0, "abc", Style::new(), 5);
        put_at(&mut buffer, 0, 7, "abc", Style::new(), 5);
        assert_eq!(buffer, Buffer::with_lines(["   ab"]));
    }
}
