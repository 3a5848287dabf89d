//! The contents of a timeline: what is drawn, and what is left out.

use super::super::{Context, Entry, entries, error_name, one_line};
use crate::sim::recorder::{Mark, MarkKind, NO_HOST};
use crate::sim::{Happened, Record, Report};
use std::collections::HashMap;
use std::time::Duration;

/// The messages that are drawn at most. More would be slow to show, and nobody would read them.
const MOST_MESSAGES: usize = 1_500;

/// The marks that are drawn at most: faults, notes, broken connections.
const MOST_MARKS: usize = 1_500;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    /// The request for a connection.
    Connect,
    Reset,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Arrived(Duration),
    Lost(Duration),
    /// It was on its way when the run ended.
    OnItsWay,
}

/// A packet from its sending to its end.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) kind: Kind,
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) sent: Duration,
    pub(super) end: End,
    pub(super) bytes: usize,
    pub(super) connection: u64,
    pub(super) service: String,
    pub(super) again: bool,
}

impl Message {
    pub(super) fn ends(&self) -> Option<Duration> {
        match self.end {
            End::Arrived(at) | End::Lost(at) => Some(at),
            End::OnItsWay => None,
        }
    }
}

/// A fault that lasts.
#[derive(Debug, Clone)]
pub(super) struct Span {
    pub(super) subject: &'static str,
    pub(super) hosts: Vec<u32>,
    pub(super) text: String,
    pub(super) begins: Duration,
    /// `None` if it lasted until the end of the run.
    pub(super) ends: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PointKind {
    Note,
    /// A fault of one instant.
    Fault,
    /// A connection that broke, or could not be made.
    Broken,
}

/// Something of one instant.
#[derive(Debug, Clone)]
pub(super) struct Point {
    pub(super) kind: PointKind,
    pub(super) hosts: Vec<u32>,
    pub(super) at: Duration,
    pub(super) text: String,
}

#[derive(Debug, Default)]
pub(super) struct Story {
    /// In the order of their sending.
    pub(super) messages: Vec<Message>,
    pub(super) spans: Vec<Span>,
    pub(super) points: Vec<Point>,
    pub(super) failure: Option<(Duration, String)>,
    pub(super) elapsed: Duration,
    /// The times of messages that are left out.
    pub(super) omitted: Vec<Duration>,
    pub(super) omitted_marks: usize,
    /// The hosts that have a lane.
    pub(super) lanes: Vec<u32>,
}

impl Story {
    pub(super) fn of(report: &Report) -> Story {
        let context = Context::new(report);
        let mut teller = Teller {
            context: &context,
            story: Story {
                elapsed: report.elapsed,
                ..Story::default()
            },
            by_packet: HashMap::new(),
            connecting: None,
        };
        for entry in entries(report) {
            match entry {
                Entry::Record(record) => teller.add_record(record),
                Entry::Mark(mark) => teller.add_mark(mark),
            }
        }
        let mut story = teller.story;
        story.messages.sort_by_key(|message| message.sent);
        story.omit_marks();
        story.omit_messages();
        story.lanes = (0..report.hosts.len() as u32)
            .filter(|host| *host != 0 || story.concerns_scenario())
            .collect();
        story
    }

    fn concerns_scenario(&self) -> bool {
        self.messages.iter().any(|one| one.from == 0 || one.to == 0)
            || self.spans.iter().any(|span| span.hosts.contains(&0))
            || self.points.iter().any(|point| point.hosts.contains(&0))
    }

    fn omit_marks(&mut self) {
        let excess = |count: usize| count.saturating_sub(MOST_MARKS);
        // The last ones are nearest to the failure.
        let (points, spans) = (excess(self.points.len()), excess(self.spans.len()));
        self.points.drain(..points);
        self.spans.drain(..spans);
        self.omitted_marks = points + spans;
    }

    /// Leaves out messages that are far from everything of interest: as many around each point as the limit allows,
    /// and most around the failure.
    fn omit_messages(&mut self) {
        if self.messages.len() <= MOST_MESSAGES {
            return;
        }
        let index_of = |at: Duration| self.messages.partition_point(|one| one.sent < at);
        let mut focuses = vec![(0, 1.0), (self.messages.len(), 4.0)];
        if let Some((at, _)) = &self.failure {
            focuses.push((index_of(*at), 20.0));
        }
        for span in &self.spans {
            focuses.push((index_of(span.begins), 1.0));
            focuses.extend(span.ends.map(|end| (index_of(end), 1.0)));
        }
        focuses.extend(self.points.iter().map(|point| (index_of(point.at), 1.0)));
        let mut ranked: Vec<(f64, usize)> = vec![(f64::MAX, 0); self.messages.len()];
        focuses.sort_by_key(|(index, _)| *index);
        for (index, rank) in ranked.iter_mut().enumerate() {
            rank.1 = index;
        }
        for (focus, weight) in focuses {
            // Beyond this distance the limit is reached in any case.
            let reach = MOST_MESSAGES;
            let range = focus.saturating_sub(reach)..(focus + reach).min(ranked.len());
            for index in range {
                let distance = (index.abs_diff(focus) as f64) / weight;
                ranked[index].0 = ranked[index].0.min(distance);
            }
        }
        ranked.sort_by(|one, other| one.0.total_cmp(&other.0));
        let mut keep = vec![false; self.messages.len()];
        ranked[..MOST_MESSAGES]
            .iter()
            .for_each(|(_, index)| keep[*index] = true);
        let mut index = 0;
        let omitted = &mut self.omitted;
        self.messages.retain(|message| {
            index += 1;
            let kept = keep[index - 1];
            if !kept {
                omitted.push(message.sent);
            }
            kept
        });
    }
}

struct Teller<'a> {
    context: &'a Context,
    story: Story,
    /// The index of a packet's message.
    by_packet: HashMap<u64, usize>,
    /// The connection that is being requested: its next packet is the request.
    connecting: Option<u64>,
}

impl Teller<'_> {
    fn add_record(&mut self, record: &Record) {
        let at = self.context.time(record.at);
        match record.happened {
            Happened::ConnectStarted => self.connecting = Some(record.connection),
            Happened::SegmentSent | Happened::DatagramSent => {
                let connects = self.connecting.take() == Some(record.connection);
                match (record.bytes, connects) {
                    (_, true) => self.send(record, Kind::Connect),
                    // Answers to requests, acknowledgments of the end.
                    (0, false) => {}
                    _ => self.send(record, Kind::Data),
                }
            }
            Happened::ResetSent => self.send(record, Kind::Reset),
            Happened::SegmentDelivered | Happened::DatagramDelivered => {
                self.finish(record, End::Arrived(at));
            }
            Happened::SegmentLost | Happened::DatagramLost => {
                if record.bytes > 0 && !self.by_packet.contains_key(&record.packet) {
                    self.send(record, Kind::Data);
                }
                self.finish(record, End::Lost(at));
            }
            Happened::Broken(error) => self.break_connection(record, "broken", error),
            Happened::ConnectFailed(error) => {
                self.break_connection(record, "cannot connect", error);
            }
            _ => {}
        }
    }

    fn send(&mut self, record: &Record, kind: Kind) {
        self.by_packet
            .insert(record.packet, self.story.messages.len());
        self.story.messages.push(Message {
            kind,
            from: record.from,
            to: record.to,
            sent: self.context.time(record.at),
            end: End::OnItsWay,
            bytes: record.bytes,
            connection: record.connection,
            service: self.context.service(record),
            again: self.context.repeated.contains(&record.packet),
        });
    }

    fn finish(&mut self, record: &Record, end: End) {
        let Some(index) = self.by_packet.get(&record.packet).copied() else {
            return;
        };
        let Some(message) = self.story.messages.get_mut(index) else {
            return;
        };
        if message.end == End::OnItsWay {
            message.end = end;
        } else {
            // A datagram that was doubled: the copy was sent at the same time.
            let copy = Message {
                end,
                ..message.clone()
            };
            self.story.messages.push(copy);
        }
    }

    fn break_connection(&mut self, record: &Record, what: &str, error: i32) {
        self.story.points.push(Point {
            kind: PointKind::Broken,
            hosts: vec![record.from],
            at: self.context.time(record.at),
            text: format!("{what}: {}", error_name(error)),
        });
    }

    fn add_mark(&mut self, mark: &Mark) {
        let at = self.context.time(mark.at);
        let text = one_line(&mark.text);
        let hosts = mark.hosts.iter().copied().filter(|host| *host != NO_HOST);
        let hosts: Vec<u32> = hosts.collect();
        let point = |kind, hosts| Point {
            kind,
            hosts,
            at,
            text: text.clone(),
        };
        match mark.kind {
            MarkKind::Failure => self.story.failure = Some((at, text)),
            MarkKind::Note => self.story.points.push(point(PointKind::Note, hosts)),
            MarkKind::Instant => self.story.points.push(point(PointKind::Fault, hosts)),
            MarkKind::FaultBegins => {
                self.end_span(mark, at);
                let subject = mark.subject;
                self.story.spans.push(Span {
                    subject,
                    hosts,
                    text,
                    begins: at,
                    ends: None,
                });
            }
            MarkKind::FaultEnds => self.end_span(mark, at),
        }
    }

    fn end_span(&mut self, mark: &Mark, at: Duration) {
        let mut hosts = mark.hosts.clone();
        hosts.sort_unstable();
        for span in self.story.spans.iter_mut().rev() {
            let mut concerned = span.hosts.clone();
            concerned.sort_unstable();
            if span.ends.is_none() && span.subject == mark.subject && concerned == hosts {
                span.ends = Some(at);
            }
        }
    }
}
