//! Simpler forms of faults, which shrinking tries.

use super::Fault;
use super::options::probabilities;
use crate::sim::DiskLatency;
use std::time::Duration;

/// Returns forms of a fault that say less, those first that say least.
pub(in crate::sim) fn simpler_forms(fault: &Fault) -> Vec<Fault> {
    let mut forms = Vec::new();
    let mut add = |form: Fault| {
        if form != *fault && !forms.contains(&form) {
            forms.push(form);
        }
    };
    match fault {
        Fault::Link(one, other, link) => {
            let with = |change: &dyn Fn(&mut crate::sim::Link)| {
                let mut link = *link;
                change(&mut link);
                Fault::Link(one.clone(), other.clone(), link)
            };
            add(with(&|link| {
                (link.loss, link.duplicate, link.reorder) = (0.0, 0.0, 0.0);
            }));
            add(with(&|link| link.jitter = Duration::ZERO));
            add(with(&|link| link.bandwidth = None));
        }
        Fault::ShortTransfers(..) | Fault::NetworkFaults(..) | Fault::DiskFaults(..) => {
            forms = with_fewer_probabilities(fault);
        }
        Fault::DiskLatency(host, latency) => {
            let normal = DiskLatency::default();
            let mut with = |jitter, sync| {
                let operation = latency.operation;
                let latency = DiskLatency {
                    operation,
                    jitter,
                    sync,
                };
                add(Fault::DiskLatency(host.clone(), latency));
            };
            with(normal.jitter, normal.sync);
            with(normal.jitter, latency.sync);
            with(latency.jitter, normal.sync);
        }
        Fault::ClockJump(host, by_ms) => {
            // A day, an hour, a minute, a second in the same direction.
            for ms in [86_400_000, 3_600_000, 60_000, 1_000] {
                if by_ms.abs() > ms {
                    add(Fault::ClockJump(host.clone(), ms * by_ms.signum()));
                }
            }
        }
        Fault::CrashAtOperation(host, nth) => {
            for fewer in [1, nth / 2, nth.saturating_sub(1)] {
                if (1..*nth).contains(&fewer) {
                    add(Fault::CrashAtOperation(host.clone(), fewer));
                }
            }
        }
        _ => {}
    }
    forms
}

/// Returns the forms with a single one of the probabilities, and those without one of them.
fn with_fewer_probabilities(fault: &Fault) -> Vec<Fault> {
    let set: Vec<usize> = (probabilities(&mut fault.clone()).iter().enumerate())
        .filter(|(_, (_, probability))| **probability > 0.0)
        .map(|(index, _)| index)
        .collect();
    // Without any of them it would be no fault, and those are removed elsewhere.
    if set.len() < 2 {
        return Vec::new();
    }
    let keeping = |keeps: &dyn Fn(usize) -> bool| {
        let mut form = fault.clone();
        for (index, (_, probability)) in probabilities(&mut form).into_iter().enumerate() {
            if !keeps(index) {
                *probability = 0.0;
            }
        }
        form
    };
    let single = set.iter().map(|kept| keeping(&|index| index == *kept));
    let mut forms: Vec<Fault> = single.collect();
    if set.len() > 2 {
        forms.extend(set.iter().map(|left| keeping(&|index| index != *left)));
    }
    forms
}

#[cfg(test)]
mod tests {
    use super::simpler_forms;
    use crate::sim::Schedule;

    /// The simpler forms of a line, as lines.
    fn forms(line: &str) -> Vec<String> {
        let schedule: Schedule = format!("1s {line}").parse().unwrap();
        let forms = simpler_forms(&schedule.faults()[0].fault);
        forms.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_simpler_form_has_less_of_everything() {
        assert_eq!(
            forms("disk-faults db read=0.1 sync=0.2"),
            ["disk-faults db read=0.1", "disk-faults db sync=0.2"]
        );
        assert_eq!(forms("disk-faults db read=0.1 sync=0.2 write=0.3").len(), 6);
        assert_eq!(
            forms("short-transfers a read=0.1 write=0.2"),
            [
                "short-transfers a read=0.1 write=0",
                "short-transfers a read=0 write=0.2"
            ]
        );
        assert_eq!(
            forms("disk-latency db operation=9ms jitter=1ms sync=1s")[0],
            "disk-latency db operation=9ms jitter=80us sync=1ms"
        );
        assert_eq!(
            forms("jump-clock db -3700s"),
            [
                "jump-clock db -3600s",
                "jump-clock db -60s",
                "jump-clock db -1s"
            ]
        );
        assert_eq!(
            forms("crash-at-operation db 10"),
            [
                "crash-at-operation db 1",
                "crash-at-operation db 5",
                "crash-at-operation db 9"
            ]
        );
        assert_eq!(
            forms("link a b latency=5ms loss=0.1 bandwidth=7"),
            [
                "link a b latency=5ms bandwidth=7",
                "link a b latency=5ms loss=0.1"
            ]
        );
        for simple in [
            "disk-faults db read=0.1",
            "disk-full db",
            "freeze-disk db",
            "crash-at-operation db 1",
            "jump-clock db 1s",
            "crash db",
        ] {
            assert_eq!(forms(simple), [""; 0], "{simple}");
        }
    }
}
