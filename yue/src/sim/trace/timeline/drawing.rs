//! The drawing: SVG elements, at places that [`Axis`] and the lanes give them.
//!
//! Whatever belongs together is one element, and a connection or a fault has a class and not a colour, so that the page
//! stays small and its style sheet decides how it looks.

use super::axis::{Axis, Cut};
use super::story::{End, Kind, Message, Point, PointKind, Span, Story};
use super::{clip, clip_middle, escape};
use crate::sim::Report;
use std::collections::BTreeMap;
use std::fmt::{Arguments, Write};
use std::time::Duration;

/// The width of the times at the left.
const GUTTER: f64 = 96.0;

/// The width at the right, for the labels of the last lane.
const RIGHT: f64 = 190.0;

/// The height of a line of labels.
const LABEL_HEIGHT: f64 = 13.0;

/// A label that would stand further than this below its place is left out. It is still the element's tooltip.
const LABEL_DISTANCE_MAX: f64 = 27.0;

/// The number of colours of connections.
const COLOURS: u64 = 6;

/// The part of its way after which a packet is drawn as lost.
const LOST_EARLY: f64 = 0.42;
const LOST_LATE: f64 = 0.88;

/// The drawing's parts as SVG text.
pub(super) struct Drawing {
    pub(super) width: f64,
    pub(super) height: f64,
    pub(super) head: String,
    pub(super) body: String,
}

pub(super) fn draw(report: &Report, story: &Story, axis: &Axis) -> Drawing {
    let spacing = match story.lanes.len() {
        0..=2 => 300.0,
        3..=5 => 210.0,
        6..=9 => 140.0,
        10..=16 => 96.0,
        _ => 72.0,
    };
    let mut pen = Pen {
        report,
        axis,
        spacing,
        lanes: (story.lanes.iter().enumerate())
            .map(|(index, host)| (*host, GUTTER + 50.0 + index as f64 * spacing))
            .collect(),
        width: GUTTER + 50.0 + (story.lanes.len().max(1) - 1) as f64 * spacing + RIGHT,
        next_label: BTreeMap::new(),
        next_size: BTreeMap::new(),
        labels: String::new(),
        body: String::new(),
    };
    pen.draw_times();
    pen.draw_lanes(story);
    axis.cuts.iter().for_each(|cut| pen.draw_cut(cut));
    let areas = story.spans.iter();
    areas.for_each(|span| pen.draw_area(span, story.elapsed));
    let messages = story.messages.iter();
    messages.for_each(|message| pen.draw_message(message));
    // In the order of time, so that a later label gives way to an earlier one.
    let mut edges: Vec<(Duration, Edge<'_>)> = Vec::new();
    for span in &story.spans {
        edges.push((span.begins, Edge::Begins(span)));
        edges.extend(span.ends.map(|ends| (ends, Edge::Ends(span))));
    }
    edges.extend(
        story
            .points
            .iter()
            .map(|point| (point.at, Edge::Point(point))),
    );
    edges.sort_by_key(|(at, _)| *at);
    edges.iter().for_each(|(at, edge)| pen.draw_edge(*at, edge));
    pen.draw_end(story);
    let head = pen.head(story);
    Drawing {
        width: pen.width,
        height: axis.height + 30.0,
        head,
        body: pen.body + &pen.labels,
    }
}

/// A thing with a label.
enum Edge<'a> {
    Begins(&'a Span),
    Ends(&'a Span),
    Point(&'a Point),
}

struct Pen<'a> {
    report: &'a Report,
    axis: &'a Axis,
    spacing: f64,
    /// The lanes' places, by host.
    lanes: BTreeMap<u32, f64>,
    width: f64,
    /// The height from which on a lane has room for a label, by host.
    next_label: BTreeMap<u32, f64>,
    /// The same for the sizes of messages, by sender and receiver.
    next_size: BTreeMap<(u32, u32), f64>,
    /// Labels lie above all else.
    labels: String,
    body: String,
}

impl Pen<'_> {
    fn add(&mut self, element: Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.body, "{element}");
    }

    fn x(&self, host: u32) -> f64 {
        self.lanes.get(&host).copied().unwrap_or(GUTTER)
    }

    fn draw_times(&mut self) {
        let right = self.width;
        for (at, y) in self.axis.ticks(34.0) {
            let time = format!("{}.{:06}", at.as_secs(), at.subsec_micros());
            let (x, base) = (GUTTER - 14.0, y + 3.5);
            self.add(format_args!(
                r#"<path class="grid" d="M{} {y:.1}H{right:.0}"/>
<text class="time" x="{x}" y="{base:.1}">{time}</text>"#,
                GUTTER - 8.0
            ));
        }
    }

    fn draw_lanes(&mut self, story: &Story) {
        let (top, bottom) = (0.0, self.axis.height);
        for host in &story.lanes {
            let x = self.x(*host);
            let mut from = top;
            let mut lines = String::new();
            let crashes = story
                .spans
                .iter()
                .filter(|span| span.subject == "crash" && span.hosts.contains(host));
            for crash in crashes {
                let (begins, ends) = (self.axis.y(crash.begins), self.end_of(crash, story.elapsed));
                if begins > from {
                    let _ = write!(lines, "M{x:.1} {from:.1}V{begins:.1}");
                }
                from = from.max(ends);
            }
            let _ = write!(lines, "M{x:.1} {from:.1}V{bottom:.1}");
            self.add(format_args!(r#"<path class="lane" d="{lines}"/>"#));
        }
    }

    fn end_of(&self, span: &Span, elapsed: Duration) -> f64 {
        self.axis
            .y(span.ends.unwrap_or(elapsed))
            .max(self.axis.y(span.begins) + 2.0)
    }

    fn draw_cut(&mut self, cut: &Cut) {
        let (top, height) = (cut.top + 9.0, cut.bottom - cut.top - 18.0);
        let middle = (cut.top + cut.bottom) / 2.0 + 3.5;
        let width = self.width - GUTTER + 8.0;
        let dots: String = (self.lanes.values())
            .map(|x| format!("M{x:.1} {top:.1}v{height:.1}"))
            .collect();
        let lasts = length(cut.lasts);
        self.add(format_args!(
            r#"<rect class="cut" x="{:.1}" y="{top:.1}" width="{width:.1}" height="{height:.1}"/>
<path class="dots" d="{dots}"/>
<text class="gap" x="{}" y="{middle:.1}">{lasts}</text>"#,
            GUTTER - 8.0,
            GUTTER - 14.0
        ));
        if cut.omitted > 0 {
            let x = GUTTER + 58.0;
            let what = match cut.omitted {
                1 => "message is",
                _ => "messages are",
            };
            self.add(format_args!(
                r#"<text class="omitted" x="{x}" y="{middle:.1}">{} {what} not drawn</text>"#,
                cut.omitted
            ));
        }
    }

    /// Draws what lies behind the lanes while a fault lasts.
    fn draw_area(&mut self, span: &Span, elapsed: Duration) {
        let (top, bottom) = (self.axis.y(span.begins), self.end_of(span, elapsed));
        let places: Vec<f64> = span.hosts.iter().map(|host| self.x(*host)).collect();
        let left = places.iter().copied().fold(f64::MAX, f64::min);
        let right = places.iter().copied().fold(f64::MIN, f64::max);
        let half = match span.subject {
            "crash" | "freeze" => 11.0,
            _ => 7.0,
        };
        // Hosts in between have no part in it.
        let is_wide = places.len() > 1 && right - left < 1.5 * self.spacing;
        let areas = match (places.as_slice(), is_wide) {
            (_, true) => vec![(left, right - left)],
            (places, false) => places.iter().map(|x| (x - half, 2.0 * half)).collect(),
        };
        let (subject, title) = (span.subject, escape(&span.text));
        let height = bottom - top;
        for (x, width) in areas {
            self.add(format_args!(
                r#"<rect class="area {subject}" x="{x:.1}" y="{top:.1}"
width="{width:.1}" height="{height:.1}"><title>{title}</title></rect>"#
            ));
        }
    }

    fn draw_edge(&mut self, at: Duration, edge: &Edge<'_>) {
        let (span, class, text) = match edge {
            Edge::Point(point) => return self.draw_point(point),
            Edge::Begins(span) => (span, "begins", span.text.as_str()),
            Edge::Ends(span) => {
                let text = match span.subject {
                    "crash" => "restart",
                    "freeze" => "thaw",
                    "freeze-disk" => "thaw-disk",
                    "disk-full" => "space again",
                    "partition" => "healed",
                    _ => "",
                };
                (span, "ends", text)
            }
        };
        let (y, subject) = (self.axis.y(at), span.subject);
        let places: Vec<f64> = span.hosts.iter().map(|host| self.x(*host)).collect();
        match (places.as_slice(), subject, class) {
            ([x], "crash", "begins") => {
                let cross = cross(*x, y, 6.0);
                self.add(format_args!(
                    r#"<path class="edge {subject}" d="{cross}"/>"#
                ));
            }
            ([x], ..) => self.add(format_args!(
                r#"<circle class="edge {subject} {class}" cx="{x:.1}" cy="{y:.1}" r="4.5"/>"#
            )),
            ([one, other, ..], ..) => self.add(format_args!(
                r#"<path class="edge {subject} {class}" d="M{one:.1} {y:.1}H{other:.1}"/>"#
            )),
            ([], ..) => {}
        }
        if let Some(first) = self.leftmost(&span.hosts)
            && !text.is_empty()
        {
            self.label(first, y, &format!("fault {subject}"), text);
        }
    }

    fn draw_message(&mut self, message: &Message) {
        let (from, to) = (self.x(message.from), self.x(message.to));
        let top = self.axis.y(message.sent);
        let class = match message.kind {
            Kind::Connect => "connect".to_owned(),
            Kind::Reset => "reset".to_owned(),
            Kind::Data if message.again => format!("c{} again", message.connection % COLOURS),
            Kind::Data => format!("c{}", message.connection % COLOURS),
        };
        let title = escape(&self.describe(message));
        if message.from == message.to {
            return self.add(format_args!(
                r#"<circle class="m {class}" cx="{from:.1}" cy="{top:.1}" r="2.5"><title>{title}</title></circle>"#
            ));
        }
        let (part, bottom, is_lost) = match message.end {
            End::Arrived(at) => (1.0, self.axis.y(at), false),
            End::Lost(at) if at == message.sent => (LOST_EARLY, top + 9.0, true),
            End::Lost(at) => (LOST_LATE, self.axis.y(at), true),
            End::OnItsWay => (0.5, top + 9.0, false),
        };
        let end = from + (to - from) * part;
        let mut path = format!("M{from:.1} {top:.1}L{end:.1} {bottom:.1}");
        if part == 1.0 {
            path += &arrowhead((from, top), (end, bottom));
        }
        self.add(format_args!(
            r#"<path class="m {class}" d="{path}"><title>{title}</title></path>"#
        ));
        if is_lost {
            let cross = cross(end, bottom, 4.5);
            self.add(format_args!(
                r#"<path class="lost" d="{cross}"><title>{title}</title></path>"#
            ));
        }
        self.draw_size(message, (from, top), (end, bottom));
    }

    /// Writes the size of a message beside its arrow, if there is room.
    fn draw_size(&mut self, message: &Message, from: (f64, f64), to: (f64, f64)) {
        let next = self
            .next_size
            .entry((message.from, message.to))
            .or_insert(f64::MIN);
        if self.spacing < 90.0 || from.1 < *next {
            return;
        }
        *next = from.1 + LABEL_HEIGHT;
        let text = match message.kind {
            Kind::Connect => "connect".to_owned(),
            Kind::Reset => "reset".to_owned(),
            Kind::Data => format!("{} B", message.bytes),
        };
        let direction = (to.0 - from.0).signum();
        let x = from.0 + direction * 44.0f64.min((to.0 - from.0).abs() * 0.6);
        // Below its arrow: above it, near the sender, is often the message that it answers.
        let y = from.1 + (to.1 - from.1) * ((x - from.0) / (to.0 - from.0)) + 11.0;
        let _ = writeln!(
            self.labels,
            r#"<text class="size" x="{x:.1}" y="{y:.1}">{text}</text>"#
        );
    }

    fn describe(&self, message: &Message) -> String {
        let (from, to) = (self.report.host(message.from), self.report.host(message.to));
        let what = match message.kind {
            Kind::Connect => "connection request".to_owned(),
            Kind::Reset => "reset".to_owned(),
            Kind::Data if message.again => format!("{} B, sent again", message.bytes),
            Kind::Data => format!("{} B", message.bytes),
        };
        let connection = match message.connection {
            0 => String::new(),
            number => format!(" #{number}"),
        };
        let end = match message.end {
            End::Arrived(at) => format!("arrived {:.6}s", at.as_secs_f64()),
            End::Lost(at) => format!("LOST {:.6}s", at.as_secs_f64()),
            End::OnItsWay => "on its way at the end".to_owned(),
        };
        let sent = message.sent.as_secs_f64();
        format!(
            "{from} -> {to}, {}{connection}: {what}; sent {sent:.6}s, {end}",
            message.service
        )
    }

    fn draw_point(&mut self, point: &Point) {
        let y = self.axis.y(point.at);
        let places: Vec<f64> = point.hosts.iter().map(|host| self.x(*host)).collect();
        let Some(first) = self.leftmost(&point.hosts) else {
            return;
        };
        let (class, radius) = match point.kind {
            PointKind::Note => ("note", 4.0),
            PointKind::Fault => ("fault", 4.0),
            PointKind::Broken => ("broken", 3.5),
        };
        let title = escape(&point.text);
        match (point.kind, places.as_slice()) {
            (PointKind::Fault, [one, other, ..]) => self.add(format_args!(
                r#"<path class="instant" d="M{one:.1} {y:.1}H{other:.1}"><title>{title}</title></path>"#
            )),
            (PointKind::Broken, [x, ..]) => {
                let cross = cross(*x, y, radius);
                self.add(format_args!(r#"<path class="broken" d="{cross}"><title>{title}</title></path>"#));
            }
            (_, [x, ..]) => self.add(format_args!(
                r#"<circle class="{class}" cx="{x:.1}" cy="{y:.1}" r="{radius}"><title>{title}</title></circle>"#
            )),
            (_, []) => {}
        }
        self.label(first, y, class, &point.text);
    }

    fn leftmost(&self, hosts: &[u32]) -> Option<u32> {
        let order = |host: &&u32| self.x(**host) as u64;
        hosts.iter().min_by_key(order).copied()
    }

    /// Writes a label to the right of a lane, below those that stand there.
    fn label(&mut self, host: u32, y: f64, class: &str, text: &str) {
        let next = self.next_label.entry(host).or_insert(f64::MIN);
        let base = (y + 4.0).max(*next);
        if base - y > LABEL_DISTANCE_MAX {
            return;
        }
        *next = base + LABEL_HEIGHT;
        let room = match self.spacing >= 200.0 {
            true => 44,
            false => 30,
        };
        let x = self.lanes.get(&host).copied().unwrap_or(GUTTER) + 14.0;
        let text = escape(&clip(text, room));
        let _ = writeln!(
            self.labels,
            r#"<text class="label {class}" x="{x:.1}" y="{base:.1}">{text}</text>"#
        );
    }

    fn draw_end(&mut self, story: &Story) {
        let (at, class, text) = match &story.failure {
            Some((at, text)) => (*at, "failure", text.as_str()),
            None => (story.elapsed, "end", "end"),
        };
        let y = self.axis.y(at);
        let (left, right) = (GUTTER - 8.0, self.width - 8.0);
        let base = y + 17.0;
        let text = escape(&clip(text, 100));
        let _ = writeln!(
            self.labels,
            r#"<path class="{class}" d="M{left} {y:.1}H{right:.1}"/>
<text class="{class}" x="{left}" y="{base:.1}">{text}</text>"#
        );
    }

    /// The names of the hosts, which stay in sight.
    fn head(&self, story: &Story) -> String {
        let mut head = String::new();
        let letters = ((self.spacing - 14.0) / 7.2) as usize;
        for host in &story.lanes {
            let (x, name) = (self.x(*host), self.report.host(*host));
            let short = escape(&clip_middle(name, letters.min(26)));
            let width = short_width(name, letters.min(26));
            let _ = writeln!(
                head,
                r#"<g><title>{}</title><rect x="{:.1}" y="5" width="{width:.1}" height="22" rx="6"/>
<text x="{x:.1}" y="20">{short}</text></g>"#,
                escape(name),
                x - width / 2.0
            );
        }
        head
    }
}

/// The width of a host's frame: that of its name in a font of fixed width.
fn short_width(name: &str, most: usize) -> f64 {
    name.chars().count().min(most) as f64 * 7.3 + 14.0
}

fn cross(x: f64, y: f64, size: f64) -> String {
    let (left, right, top, bottom) = (x - size, x + size, y - size, y + size);
    format!("M{left:.1} {top:.1}L{right:.1} {bottom:.1}M{left:.1} {bottom:.1}L{right:.1} {top:.1}")
}

/// The two strokes of an arrow's head.
fn arrowhead(from: (f64, f64), to: (f64, f64)) -> String {
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let length = dx.hypot(dy).max(1.0);
    let (dx, dy) = (dx / length, dy / length);
    let (back, side) = (7.0, 3.2);
    let left = (to.0 - back * dx - side * dy, to.1 - back * dy + side * dx);
    let right = (to.0 - back * dx + side * dy, to.1 - back * dy - side * dx);
    format!(
        "M{:.1} {:.1}L{:.1} {:.1}L{:.1} {:.1}",
        left.0, left.1, to.0, to.1, right.0, right.1
    )
}

/// Writes a length of time in three digits or so.
fn length(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        _ if seconds >= 100.0 => format!("{seconds:.0} s"),
        _ if seconds >= 1.0 => format!("{seconds:.2} s"),
        _ if seconds >= 0.001 => format!("{:.1} ms", seconds * 1e3),
        _ => format!("{:.0} µs", seconds * 1e6),
    }
}
