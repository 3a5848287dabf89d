//! Being told what happens to files, on both drivers.

mod common;

use common::*;
use std::ffi::OsStr;
use std::rc::Rc;
use std::time::Duration;
use yue_io::fs::{self, TempDir};
use yue_io::watch::{Events, Watcher};
use yue_scheduler::*;

#[test]
fn what_happens_in_a_directory_is_told_in_order() {
    on_each_driver(|| {
        let place = TempDir::new().unwrap();
        let watcher = Watcher::new().unwrap();
        let wanted = Events::CREATED
            | Events::WRITTEN
            | Events::MOVED_FROM
            | Events::MOVED_TO
            | Events::REMOVED;
        let watch = watcher.add(place.path(), wanted).unwrap();
        let (one, two) = (place.path().join("one"), place.path().join("two"));
        let (from, to) = (one.clone(), two.clone());
        let fiber = spawn(move || {
            fs::write(&from, "x").unwrap();
            fs::rename(&from, &to).unwrap();
            fs::remove_file(&to).unwrap();
            fs::create_dir(&to).unwrap();
        });
        let told: Vec<_> = (0..6).map(|_| watcher.next().unwrap()).collect();
        fiber.join().unwrap();
        let kinds: Vec<_> = told.iter().map(|event| event.events).collect();
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
        let names: Vec<_> = told.iter().map(|event| event.name.as_deref()).collect();
        let (one, two) = (Some(OsStr::new("one")), Some(OsStr::new("two")));
        assert_eq!(names, [one, one, one, two, two, two]);
        assert!(told.iter().all(|event| event.watch == watch));
        assert!(told[2].cookie != 0 && told[2].cookie == told[3].cookie);
        assert_eq!(told[0].cookie, 0);
    });
}

#[test]
fn a_watch_that_is_taken_off_or_whose_file_goes_ends() {
    on_each_driver(|| {
        let place = TempDir::new().unwrap();
        let path = place.path().join("file");
        fs::write(&path, "").unwrap();
        let watcher = Watcher::new().unwrap();
        let watch = watcher.add(&path, Events::MODIFIED).unwrap();
        fs::write(&path, "more").unwrap();
        watcher.remove(watch).unwrap();
        assert!(watcher.remove(watch).is_err());
        let told = watcher.next().unwrap();
        assert_eq!((told.events, told.name), (Events::MODIFIED, None));
        let mut told = watcher.next().unwrap();
        while told.events == Events::MODIFIED {
            told = watcher.next().unwrap();
        }
        assert_eq!((told.watch, told.events), (watch, Events::UNWATCHED));
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
        let place = TempDir::new().unwrap();
        let watcher = Rc::new(Watcher::new().unwrap());
        watcher.add(place.path(), Events::CREATED).unwrap();
        for round in 0..50 {
            let other = watcher.clone();
            let fiber = spawn(move || other.next());
            yield_now().unwrap();
            fs::write(place.path().join(round.to_string()), "").unwrap();
            fiber.cancel();
            let told = match fiber.join().unwrap() {
                Ok(told) => told,
                Err(_) => watcher.next().unwrap(),
            };
            assert_eq!(told.name.unwrap(), OsStr::new(&round.to_string()));
        }
        let limit = now().saturating_add(Duration::from_millis(5));
        assert!(with_deadline(limit, || watcher.next()).is_err());
        assert_eq!(operations(), 0);
    });
}
