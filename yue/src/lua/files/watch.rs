//! Watches of files: the natives under `yue.fs(path, events)`.

use super::path_of;
use crate::lua::host::failure::{failed, quoted};
use crate::lua::host::handles::Handles;
use crate::lua::native::{native, register};
use std::os::unix::ffi::OsStringExt;
use yue_io::inotify::{Events, Watcher};
use yue_luajit::Stack;

thread_local! {
    static WATCHES: Handles<Watcher> = Handles::default();
}

/// Drops this room's state at the end of the loop.
pub(super) fn clear() {
    WATCHES.with(Handles::clear);
}

/// The kernel's events and the words for the prelude, by precedence: a record has one of them.
const WORDS: &[(Events, &str)] = &[
    (Events::OVERFLOW, "lost"),
    (Events::UNWATCHED, "ended"),
    (Events::SELF_REMOVED, "ended"),
    (Events::SELF_MOVED, "ended"),
    (Events::WRITTEN, "change"),
    (Events::MOVED_TO, "replace"),
    (Events::CREATED, "create"),
    (Events::REMOVED, "remove"),
    (Events::MOVED_FROM, "remove"),
    (Events::MODIFIED, "write"),
    (Events::ATTRIBUTES, "attributes"),
];

native! {
    /// `watch_open(directory, with_writes, with_attributes)`: the number of a watch.
    WatchOpen = "watch_open", suspends: false;
    read(stack) -> (&'a [u8], bool, bool) { (stack.bytes(1), stack.boolean(2), stack.boolean(3)) }
    run((directory, with_writes, with_attributes)) -> f64 {
        let mut events = Events::WRITTEN | Events::CREATED | Events::REMOVED | Events::MOVED_FROM | Events::MOVED_TO
            | Events::SELF_REMOVED | Events::SELF_MOVED;
        // These come in great numbers: the kernel drops them where nobody wants them.
        if with_writes {
            events |= Events::MODIFIED;
        }
        if with_attributes {
            events |= Events::ATTRIBUTES;
        }
        let opened = Watcher::new().and_then(|watcher| watcher.add(path_of(directory), events).map(|_| watcher));
        let watcher = opened.map_err(|failure| {
            let limit = match failure.raw_os_error() {
                Some(libc::EMFILE) => " (see fs.inotify.max_user_instances)",
                Some(libc::ENOSPC) => " (see fs.inotify.max_user_watches)",
                _ => "",
            };
            failed(&format!("cannot watch {}{limit}", quoted(directory)), &failure)
        })?;
        Ok(WATCHES.with(|watches| watches.add(watcher)))
    }
}

native! {
    /// Waits for the next event: its word, and the name in the directory, if it has one. Nil when the watch is closed.
    WatchNext = "watch_next", suspends: true;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> Option<(String, Option<Vec<u8>>)> {
        loop {
            let Some(watcher) = WATCHES.with(|watches| watches.find(number)) else { return Ok(None) };
            let event = watcher.next().map_err(|failure| failed("cannot watch files any longer", &failure))?;
            let word = WORDS.iter().find(|(known, _)| event.events.contains(*known));
            if let Some((_, word)) = word {
                return Ok(Some(((*word).to_owned(), event.name.map(OsStringExt::into_vec))));
            }
        }
    }
}

native! {
    WatchClose = "watch_close", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> () {
        let watcher = WATCHES.with(|watches| watches.remove(number));
        drop(watcher);
        Ok(())
    }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(super) fn register_all(stack: Stack<'_>) {
    register!(stack; WatchOpen, WatchNext, WatchClose);
}
