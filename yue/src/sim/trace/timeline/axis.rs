//! The axis: from virtual times to heights.
//!
//! A run is dense for microseconds, and then nothing happens for a minute. So the axis is neither linear nor
//! logarithmic: the distance between two events grows with the time between them, up to a limit. Beyond it
//! the time is cut out, and the cut is marked with its length.

use super::story::Story;
use std::time::Duration;

/// The height of the time that a message takes.
const FLIGHT_HEIGHT: f64 = 26.0;

/// Distances below this cannot be seen. Events of one instant have the same height.
const LEAST_STEP: f64 = 2.0;

/// A time without events is cut when it is longer than this many flights of a message.
const CUT_FLIGHTS: f64 = 12.0;

/// The height of a cut.
const CUT_HEIGHT: f64 = 46.0;

/// The height above the first event and below the last.
const MARGIN: f64 = 26.0;

/// A time that was cut out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    pub(super) top: f64,
    pub(super) bottom: f64,
    pub(super) lasts: Duration,
    /// The number of messages in it that are left out.
    pub(super) omitted: usize,
}

#[derive(Debug)]
pub(super) struct Axis {
    /// Times of events and their heights, in order.
    stops: Vec<(Duration, f64)>,
    pub(super) cuts: Vec<Cut>,
    pub(super) height: f64,
}

impl Axis {
    pub(super) fn new(story: &Story) -> Axis {
        let mut times = vec![Duration::ZERO, story.elapsed];
        times.extend(story.messages.iter().map(|message| message.sent));
        times.extend(story.messages.iter().filter_map(|message| message.ends()));
        times.extend(story.spans.iter().map(|span| span.begins));
        times.extend(story.spans.iter().filter_map(|span| span.ends));
        times.extend(story.points.iter().map(|point| point.at));
        times.extend(story.failure.iter().map(|(at, _)| *at));
        times.sort_unstable();
        times.dedup();
        let flight = flight(story).as_secs_f64();
        let mut omitted = story.omitted.iter().peekable();
        let mut axis = Axis {
            stops: Vec::with_capacity(times.len()),
            cuts: Vec::new(),
            height: MARGIN,
        };
        let mut before: Option<Duration> = None;
        for time in times {
            let count = std::iter::from_fn(|| omitted.next_if(|at| **at <= time)).count();
            if let Some(before) = before {
                axis.advance(time - before, flight, count);
            }
            axis.stops.push((time, axis.height));
            before = Some(time);
        }
        axis.height += MARGIN;
        axis
    }

    fn advance(&mut self, lasts: Duration, flight: f64, omitted: usize) {
        let flights = lasts.as_secs_f64() / flight;
        if flights > CUT_FLIGHTS || omitted > 0 {
            let top = self.height;
            self.height += CUT_HEIGHT;
            self.cuts.push(Cut {
                top,
                bottom: self.height,
                lasts,
                omitted,
            });
            return;
        }
        let step = match flights <= 1.0 {
            true => FLIGHT_HEIGHT * flights,
            false => FLIGHT_HEIGHT * flights.sqrt(),
        };
        self.height += step.max(LEAST_STEP);
    }

    /// The height of a time; between events it is interpolated.
    pub(super) fn y(&self, at: Duration) -> f64 {
        let index = self.stops.partition_point(|(time, _)| *time < at);
        match (
            index.checked_sub(1).and_then(|index| self.stops.get(index)),
            self.stops.get(index),
        ) {
            (_, Some((time, y))) if *time == at => *y,
            (Some((before, low)), Some((after, high))) => {
                let part = (at - *before).as_secs_f64() / (*after - *before).as_secs_f64();
                low + (high - low) * part
            }
            (Some((_, y)), None) | (None, Some((_, y))) => *y,
            (None, None) => MARGIN,
        }
    }

    /// Times and heights of events, at least `distance` apart.
    pub(super) fn ticks(&self, distance: f64) -> Vec<(Duration, f64)> {
        let mut ticks: Vec<(Duration, f64)> = Vec::new();
        for (at, y) in &self.stops {
            if ticks.last().is_none_or(|(_, last)| y - last >= distance) {
                ticks.push((*at, *y));
            }
        }
        ticks
    }
}

/// The typical time from the sending of a message to its arrival.
fn flight(story: &Story) -> Duration {
    let flights = story
        .messages
        .iter()
        .filter(|message| message.from != message.to);
    let mut flights: Vec<Duration> = flights
        .filter_map(|message| Some(message.ends()? - message.sent))
        .filter(|flight| !flight.is_zero())
        .collect();
    flights.sort_unstable();
    let middle = flights.get(flights.len() / 2).copied();
    middle.unwrap_or(Duration::from_micros(200))
}
