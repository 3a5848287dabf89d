//! Watching files for changes, on both drivers.

mod common;

use common::*;
use std::ffi::OsStr;
use std::rc::Rc;
use std::time::Duration;
use yue_io::fs::{self, TempDir};
use yue_io::inotify::{Events, Watcher};
use yue_scheduler::*;

#[test]
fn changes_in_a_directory_are_reported_in_order() {
    on_each_driver(|| {
        let dir = TempDir::new().unwrap();
        let watcher = Watcher::new().unwrap();
        let wanted = Events::CREATED
            | Events::WRITTEN
            | Events::MOVED_FROM
            | Events::MOVED_TO
            | Events::REMOVED;
        let watch = watcher.add(dir.path(), wanted).unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        let (from, to) = (one.clone(), two.clone());
        let fiber = spawn(move || {
            fs::write(&from, "x").unwrap();
            fs::rename(&from, &to).unwrap();
            fs::remove_file(&to).unwrap();
            fs::create_dir(&to).unwrap();
        });
        let events: Vec<_> = (0..6).map(|_| watcher.next().unwrap()).collect();
        fiber.join().unwrap();
        let kinds: Vec<_> = events.iter().map(|event| event.events).collect();
        assert_eq!(
            kinds,
            [
                Events::CREATED,
                Events::WRITTEN,
                Events::MOVED_FROM,
                Events::MOVED_TO,
                Events::REMOVED,
                Events::CREATED | Events::DIRECTORY
            ]
        );
        let names: Vec<_> = events.iter().map(|event| event.name.as_deref()).collect();
        let (one, two) = (Some(OsStr::new("one")), Some(OsStr::new("two")));
        assert_eq!(names, [one, one, one, two, two, two]);
        assert!(events.iter().all(|event| event.watch == watch));
        assert!(events[2].cookie != 0 && events[2].cookie == events[3].cookie);
        assert_eq!(events[0].cookie, 0);
    });
}

#[test]
fn a_watch_ends_when_it_is_removed_or_its_file_is() {
    on_each_driver(|| {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "").unwrap();
        let watcher = Watcher::new().unwrap();
        let watch = watcher.add(&path, Events::MODIFIED).unwrap();
        fs::write(&path, "more").unwrap();
        watcher.remove(watch).unwrap();
        assert!(watcher.remove(watch).is_err());
        let event = watcher.next().unwrap();
        assert_eq!((event.events, event.name), (Events::MODIFIED, None));
        let mut event = watcher.next().unwrap();
        while event.events == Events::MODIFIED {
            event = watcher.next().unwrap();
        }
        assert_eq!((event.watch, event.events), (watch, Events::UNWATCHED));
        let again = watcher.add(&path, Events::SELF_REMOVED).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(watcher.next().unwrap().events, Events::SELF_REMOVED);
        let last = watcher.next().unwrap();
        assert_eq!((last.watch, last.events), (again, Events::UNWATCHED));
        assert!(watcher.add(&path, Events::CHANGES).is_err());
    });
}

#[test]
fn a_cancelled_wait_loses_no_event() {
    on_each_driver(|| {
        let dir = TempDir::new().unwrap();
        let watcher = Rc::new(Watcher::new().unwrap());
        watcher.add(dir.path(), Events::CREATED).unwrap();
        for round in 0..50 {
            let other = watcher.clone();
            let fiber = spawn(move || other.next());
            yield_now().unwrap();
            fs::write(dir.path().join(round.to_string()), "").unwrap();
            fiber.cancel();
            let event = match fiber.join().unwrap() {
                Ok(event) => event,
                Err(_) => watcher.next().unwrap(),
            };
            assert_eq!(event.name.unwrap(), OsStr::new(&round.to_string()));
        }
        let limit = now().saturating_add(Duration::from_millis(5));
        assert!(with_deadline(limit, || watcher.next()).is_err());
        assert_eq!(operations(), 0);
    });
}
