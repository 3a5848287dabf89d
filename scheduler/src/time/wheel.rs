//! The hierarchical timer wheel: O(1) to arm and to cancel, whatever the number of timers. The idea is from Varghese
//! and Lauck, "Hashed and Hierarchical Timing Wheels" (1987).
//!
//! ```text
//!   level 0   64 slots of one tick (1.024 us)      a slot here holds timers of exactly one tick
//!   level 1   64 slots of 64 ticks                 a timer moves down a level when the wheel reaches its slot
//!   ...
//!   level 8   64 slots of 64^8 ticks
//! ```
//!
//! A timer goes to the level of the highest bit in which its tick differs from the wheel's position. So a timer is
//! moved at most once per level on its way down, and most are cancelled before they move at all. Each level has a
//! bitmap of its occupied slots; two bit scans find the next timer.
//!
//! Timers fire in the order of their ticks, even when the wheel is late and many are due at once: the due timers of a
//! slot on a higher level are sorted in an array before the first of them fires. (Moving them down level by level sorts
//! them too. But each move of a timer is a cache miss, and a list cannot be prefetched: firing a million timers took
//! 290 ns each that way.) Timers of one tick fire in the order in which they were armed: a slot is a queue, and its
//! timers move down in that order before any can be armed below it.
//!
//! A slot is a circular list through its own links, so that removing a timer needs no case for the first or the last:
//! two stores to its neighbours, and one comparison that tells whether the slot is empty now.
//!
//! Invariants:
//! - A node is in at most one list, or in the array. `level == UNARMED` means that it is in neither. `level == DUE`
//!   means that it is in the array, at the position in its link `next`.
//! - The links of a slot and of its nodes form a circle: `x.next.previous == x` and `x.previous.next == x`. The bit of
//!   a slot is set exactly if its circle has a node.
//! - The levels do not move while the wheel exists.
//! - The array is empty unless `advance` is running.
//! - A node does not move while it is armed (it lies in a fiber's header, or in a pinned box).
//! - The wheel belongs to one loop; nothing here is shared between threads.
//! - A timer never fires early: its tick is its deadline rounded up.

use super::{Instant, TickTime};
use crate::prefetch::prefetch;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::{mem, ptr};

const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// Nine levels of six bits are 54 bits of ticks: 584 years, the full range of a u64 of nanoseconds.
const LEVELS: usize = 9;
/// A tick is 2^10 ns, about a microsecond: far below the latency of a sleep, so the rounding is invisible.
const TICK_SHIFT: u32 = 10;
const UNARMED: u8 = u8::MAX;
/// The level of a node that waits in the array of due timers.
const DUE: u8 = u8::MAX - 1;
/// The number of due timers by which a prefetch is ahead. With 4, firing takes 10 % longer; with 16, no less.
const PREFETCH_AHEAD: usize = 8;
/// The slots of higher levels span more ticks than the array has bits for: their timers move down first.
const SORTED_LEVEL_MAX: usize = 5;
/// Capacity of the array of due timers that is kept after they have fired.
const DUE_KEPT: usize = 1024;
/// The last deadline that has a tick. Later ones, including `Instant::NEVER`, are treated like it.
const LATEST_NS: u64 = u64::MAX - (1 << TICK_SHIFT);
const LATEST_TICK: u64 = LATEST_NS.div_ceil(1 << TICK_SHIFT);
/// The number of the next slot's timers that are examined for the exact deadline, instead of the slot's beginning.
const EXACT_SCAN: usize = 8;

/// The owner of a node, by which the loop decides what to do when it fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Owner {
    /// The node is the `timer` field of a fiber's header.
    Fiber,
    /// The node is the first field of a bare timer.
    Bare,
}

/// The neighbours in a circular list.
#[derive(Debug)]
struct Links {
    previous: Cell<*const Links>,
    next: Cell<*const Links>,
}

impl Links {
    const fn unlinked() -> Self {
        Links {
            previous: Cell::new(ptr::null()),
            next: Cell::new(ptr::null()),
        }
    }
}

/// One timer, linked into a slot of the wheel. `links` is the first field, so that a pointer to a node's links is also
/// a pointer to the node.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Node {
    links: Links,
    at_ns: Cell<u64>,
    level: Cell<u8>,
    slot: Cell<u8>,
    owner: Owner,
    /// Not used by the wheel, nor is the next field: bytes that would be padding, for the owner of the node.
    pub(crate) spare_byte: Cell<u8>,
    pub(crate) spare: Cell<u32>,
}

impl Node {
    pub(crate) const fn new(owner: Owner) -> Self {
        Node {
            links: Links::unlinked(),
            at_ns: Cell::new(0),
            level: Cell::new(UNARMED),
            slot: Cell::new(0),
            owner,
            spare_byte: Cell::new(0),
            spare: Cell::new(0),
        }
    }

    /// The instant for which it was last armed.
    pub(crate) fn at(&self) -> Instant {
        Instant::from_nanos(self.at_ns.get())
    }

    pub(crate) fn is_armed(&self) -> bool {
        self.level.get() != UNARMED
    }

    pub(crate) fn owner(&self) -> Owner {
        self.owner
    }
}

struct Level {
    occupied: Cell<u64>,
    slots: [Slot; SLOTS],
}

/// The timers of a slot, in the order of arrival: a circular list in which the slot itself stands between the last and
/// the first.
struct Slot {
    links: Links,
}

impl Slot {
    fn clear(&self) {
        self.links.previous.set(&self.links);
        self.links.next.set(&self.links);
    }

    /// Returns the first timer.
    fn first(&self) -> Option<*const Node> {
        self.after(&self.links)
    }

    /// Returns the timer that follows `links`, which are the slot's own or those of a timer in it.
    fn after(&self, links: &Links) -> Option<*const Node> {
        let next = links.next.get();
        (!ptr::eq(next, &self.links)).then_some(next.cast())
    }

    fn has_one(&self) -> bool {
        ptr::eq(self.links.next.get(), self.links.previous.get())
            && !ptr::eq(self.links.next.get(), &self.links)
    }
}

/// The due timers of the slot that `advance` empties.
#[derive(Default)]
struct Due {
    /// The timers by their position in the slot. A node stores its position too, in its link `next`. Null once the
    /// timer has fired or was cancelled.
    nodes: Vec<*const Node>,
    /// The order in which they fire. Each entry has the tick, counted from the slot's beginning, in its upper 32 bits
    /// and the position in `nodes` below. Such numbers sort faster than nodes with their ticks.
    order: Vec<u64>,
}

/// The wheel of one loop.
pub(crate) struct Wheel {
    /// The tick up to which everything has fired.
    position: Cell<u64>,
    /// Timers armed now fire after this tick: the position, or the target of the running `advance`. So a timer that
    /// keeps arming itself for the past cannot keep `advance` from ending.
    floor: Cell<u64>,
    /// Not in a `Box`, which would claim to be the only pointer to them whenever the wheel itself is moved.
    levels: Rc<[Level; LEVELS]>,
    due: RefCell<Due>,
    armed: Cell<usize>,
}

fn tick_of(at: Instant) -> u64 {
    let ns = at.as_nanos();
    if crate::planted!("wheel rounds down") {
        return ns >> TICK_SHIFT;
    }
    (ns >> TICK_SHIFT) + u64::from(ns & ((1 << TICK_SHIFT) - 1) != 0)
}

impl Wheel {
    pub(crate) fn new(now: TickTime) -> Self {
        let level = || Level {
            occupied: Cell::new(0),
            slots: std::array::from_fn(|_| Slot {
                links: Links::unlinked(),
            }),
        };
        let levels: Rc<[Level; LEVELS]> = Rc::new(std::array::from_fn(|_| level()));
        levels
            .iter()
            .flat_map(|level| &level.slots)
            .for_each(Slot::clear);
        let position = now.as_nanos() >> TICK_SHIFT;
        Wheel {
            position: Cell::new(position),
            floor: Cell::new(position),
            levels,
            due: RefCell::default(),
            armed: Cell::new(0),
        }
    }

    /// Returns the number of armed timers.
    pub(crate) fn armed(&self) -> usize {
        self.armed.get()
    }

    /// Arms `node` to fire at `at`. If it is already armed, it is moved.
    ///
    /// # Safety
    /// `node` does not move, and stays alive, until it has fired or is cancelled.
    pub(crate) unsafe fn arm(&self, node: &Node, at: Instant) {
        self.cancel(node);
        let soonest = (self.floor.get() + 1).min(LATEST_TICK) << TICK_SHIFT;
        node.at_ns.set(at.as_nanos().max(soonest).min(LATEST_NS));
        debug_assert!(
            tick_of(node.at()) > self.floor.get().min(LATEST_TICK - 1),
            "armed for the past"
        );
        self.link(node);
        self.armed.set(self.armed.get() + 1);
    }

    /// Removes `node`. Does nothing if it is not armed.
    // Inlined, and with few stores: a processor that cancels one timer after the other has the cache misses of several
    // under way at once, as many as its store buffer holds.
    #[inline(always)]
    pub(crate) fn cancel(&self, node: &Node) {
        if let Some(level) = self.levels.get(usize::from(node.level.get())) {
            self.unlink(node, level);
            self.armed.set(self.armed.get() - 1);
        } else if node.level.get() == DUE {
            self.cancel_due(node);
        }
    }

    fn link(&self, node: &Node) {
        let position = self.position.get();
        let tick = tick_of(Instant::from_nanos(node.at_ns.get()));
        let differing = (tick ^ position) | 1;
        let level = ((63 - differing.leading_zeros()) / SLOT_BITS) as usize;
        let level = level.min(LEVELS - 1);
        let slot = (tick >> (SLOT_BITS * level as u32)) as usize & (SLOTS - 1);
        let Level { occupied, slots } = &self.levels[level];
        let slot_links = &slots[slot].links;
        let last = slot_links.previous.replace(&node.links);
        node.links.previous.set(last);
        node.links.next.set(slot_links);
        node.level.set(level as u8);
        node.slot.set(slot as u8);
        // SAFETY: `last` is the slot, or a linked node, which is alive by the contract of `arm`.
        unsafe { (*last).next.set(&node.links) };
        occupied.set(occupied.get() | 1 << slot);
    }

    #[inline(always)]
    fn unlink(&self, node: &Node, level: &Level) {
        let (previous, next) = (node.links.previous.get(), node.links.next.get());
        // SAFETY: each is the slot, or a linked node, which is alive by the contract of `arm`.
        unsafe {
            debug_assert!(ptr::eq((*previous).next.get(), &node.links));
            debug_assert!(ptr::eq((*next).previous.get(), &node.links));
            (*previous).next.set(next);
            (*next).previous.set(previous);
        }
        // A node's neighbours are one and the same only if both are the slot.
        if ptr::eq(previous, next) {
            let occupied = level.occupied.get();
            level.occupied.set(occupied & !(1 << node.slot.get()));
        }
        node.level.set(UNARMED);
    }

    /// Returns the occupied slot that the wheel reaches first (level, slot), and the tick at which it begins.
    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        let position = self.position.get();
        for (index, level) in self.levels.iter().enumerate() {
            let occupied = level.occupied.get();
            if occupied == 0 {
                continue;
            }
            let shift = SLOT_BITS * index as u32;
            let here = (position >> shift) as usize & (SLOTS - 1);
            // Slots of a level lie ahead of the position and never wrap: a timer in the slot of the position, or behind
            // it, would differ from the position in a higher bit and so lie on a higher level.
            let ahead = occupied & (u64::MAX << here);
            debug_assert!(ahead == occupied, "a timer behind the wheel");
            let slot = ahead.trailing_zeros() as usize;
            let span = position >> shift >> SLOT_BITS << SLOT_BITS;
            return Some((index, slot, (span | slot as u64) << shift));
        }
        None
    }

    /// Returns when the loop must wake for its timers: exact if few share the next slot, else the slot's beginning.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let (level, slot, tick) = self.next_slot()?;
        let beginning = tick << TICK_SHIFT;
        let mut earliest = u64::MAX;
        let slot = &self.levels[level].slots[slot];
        let mut links = &slot.links;
        for _ in 0..EXACT_SCAN {
            let Some(node) = slot.after(links) else {
                return Some(Instant::from_nanos(
                    tick_of(Instant::from_nanos(earliest)) << TICK_SHIFT,
                ));
            };
            // SAFETY: a linked node is alive, by the contract of `arm`.
            let node = unsafe { &*node };
            earliest = earliest.min(node.at_ns.get());
            links = &node.links;
        }
        Some(Instant::from_nanos(beginning))
    }

    /// Advances the wheel to `now` and passes each due timer to `fire`, unlinked, in the order of their ticks. `fire`
    /// may arm and cancel timers.
    pub(crate) fn advance(&self, now: TickTime, mut fire: impl FnMut(*const Node)) {
        let target = (now.as_nanos() >> TICK_SHIFT).max(self.position.get());
        self.floor.set(target);
        while let Some((level, slot, tick)) = self.next_slot() {
            if tick > target {
                break;
            }
            self.position.set(tick);
            self.empty_slot(level, slot, target, &mut fire);
        }
        self.position.set(target);
    }

    /// Removes every timer, whatever its time. Called at the end of the loop.
    pub(crate) fn drain(&self, mut taken: impl FnMut(*const Node)) {
        debug_assert!(
            self.due.borrow().nodes.is_empty(),
            "drained while advancing"
        );
        while let Some((level, slot, _)) = self.next_slot() {
            while let Some(first) = self.levels[level].slots[slot].first() {
                // SAFETY: a linked node is alive, by the contract of `arm`.
                self.cancel(unsafe { &*first });
                taken(first);
            }
        }
    }

    fn empty_slot(
        &self,
        level: usize,
        slot: usize,
        target: u64,
        fire: &mut impl FnMut(*const Node),
    ) {
        let queue = &self.levels[level].slots[slot];
        // A timer alone in its slot needs no ordering, and the timers of a level 0 slot have the same tick.
        if level > 0 && !queue.has_one() {
            self.split(level, slot, target);
            return self.fire_due(fire);
        }
        while let Some(first) = queue.first() {
            // SAFETY: a linked node is alive, by the contract of `arm`.
            let node = unsafe { &*first };
            self.unlink(node, &self.levels[level]);
            if tick_of(node.at()) <= target {
                self.armed.set(self.armed.get() - 1);
                fire(first);
            } else {
                self.link(node);
            }
        }
    }

    /// Sorts the timers of a slot that are due by `target` into the array, and moves the others down.
    fn split(&self, level: usize, slot: usize, target: u64) {
        let begins = self.position.get();
        let occupied = &self.levels[level].occupied;
        occupied.set(occupied.get() & !(1 << slot));
        let queue = &self.levels[level].slots[slot];
        let mut following = queue.first();
        let mut due = self.due.borrow_mut();
        debug_assert!(due.nodes.is_empty(), "advance was entered again");
        while let Some(first) = following {
            // SAFETY: a linked node is alive, by the contract of `arm`.
            let node = unsafe { &*first };
            following = queue.after(&node.links);
            let tick = tick_of(node.at());
            match u32::try_from(due.nodes.len()) {
                Ok(position) if tick <= target && level <= SORTED_LEVEL_MAX => {
                    node.level.set(DUE);
                    let position_as_link = ptr::without_provenance(position as usize);
                    node.links.next.set(position_as_link);
                    due.nodes.push(first);
                    due.order.push((tick - begins) << 32 | u64::from(position));
                }
                // To a lower level: this slot's list is not read through it again.
                _ => self.link(node),
            }
        }
        queue.clear();
        due.order.sort_unstable();
    }

    /// Fires the timers in the array, in order. `fire` may remove others from it.
    fn fire_due(&self, fire: &mut impl FnMut(*const Node)) {
        for index in 0.. {
            let node = {
                let due = &mut *self.due.borrow_mut();
                let position = |entry: &u64| *entry as u32 as usize;
                if let Some(later) = due.order.get(index + PREFETCH_AHEAD) {
                    let later = due.nodes[position(later)];
                    // A timer is not aligned to cache lines, and its callback lies behind the node.
                    prefetch(later);
                    prefetch(later.wrapping_add(1));
                }
                match due.order.get(index) {
                    Some(entry) => mem::replace(&mut due.nodes[position(entry)], ptr::null()),
                    None => break,
                }
            };
            // SAFETY: an armed node is alive, by the contract of `arm`; a cancelled one leaves the array.
            if let Some(node) = unsafe { node.as_ref() } {
                node.level.set(UNARMED);
                self.armed.set(self.armed.get() - 1);
                fire(node);
            }
        }
        let mut due = self.due.borrow_mut();
        let Due { nodes, order } = &mut *due;
        nodes.clear();
        nodes.shrink_to(DUE_KEPT);
        order.clear();
        order.shrink_to(DUE_KEPT);
    }

    #[cold]
    fn cancel_due(&self, node: &Node) {
        let mut due = self.due.borrow_mut();
        let entry = due.nodes.get_mut(node.links.next.get().addr());
        debug_assert!(entry.is_some(), "a due timer is not in the array");
        if let Some(entry) = entry {
            debug_assert!(ptr::eq(*entry, node), "another timer is at its position");
            *entry = ptr::null();
        }
        node.level.set(UNARMED);
        self.armed.set(self.armed.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[derive(Debug, Clone)]
    enum Step {
        Arm { timer: usize, after_ns: u64 },
        Cancel { timer: usize },
        Advance { by_ns: u64 },
    }

    const TIMERS: usize = 24;

    /// Times of all magnitudes, so that every level is used.
    fn time() -> impl Strategy<Value = u64> {
        (0u32..56, 0u64..1 << 8).prop_map(|(shift, mantissa)| mantissa << shift)
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..TIMERS, time()).prop_map(|(timer, after_ns)| Step::Arm { timer, after_ns }),
            1 => (0..TIMERS).prop_map(|timer| Step::Cancel { timer }),
            3 => time().prop_map(|by_ns| Step::Advance { by_ns }),
        ]
    }

    proptest! {
        #[test]
        fn the_wheel_fires_timers_in_the_order_of_a_sorted_set(
            start in time(),
            steps in prop::collection::vec(step(), 1..200),
        ) {
            let nodes: Vec<Node> = (0..TIMERS).map(|_| Node::new(Owner::Bare)).collect();
            let wheel = Wheel::new(TickTime::new(Instant::from_nanos(start)));
            // The model: (tick from which the timer is due, number of the step that armed it, timer).
            let mut model: BTreeSet<(u64, usize, usize)> = BTreeSet::new();
            let mut now = start;
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Arm { timer, after_ns } => {
                        let at = Instant::from_nanos(now.saturating_add(after_ns).min(LATEST_NS));
                        model.retain(|&(_, _, other)| other != timer);
                        let soonest = ((now >> TICK_SHIFT) + 1).min(tick_of(Instant::from_nanos(LATEST_NS)));
                        model.insert((tick_of(at).max(soonest), number, timer));
                        // SAFETY: `nodes` outlives the wheel and never moves.
                        unsafe { wheel.arm(&nodes[timer], at) };
                    }
                    Step::Cancel { timer } => {
                        model.retain(|&(_, _, other)| other != timer);
                        wheel.cancel(&nodes[timer]);
                    }
                    Step::Advance { by_ns } => {
                        now = now.saturating_add(by_ns).min(LATEST_NS);
                        let mut fired = Vec::new();
                        wheel.advance(TickTime::new(Instant::from_nanos(now)), |node| {
                            let timer = nodes.iter().position(|other| ptr::eq(other, node)).unwrap();
                            fired.push(timer);
                        });
                        let target = now >> TICK_SHIFT;
                        let due: Vec<_> =
                            model.iter().filter(|(tick, ..)| *tick <= target).map(|&(.., timer)| timer).collect();
                        model.retain(|&(tick, ..)| tick > target);
                        prop_assert_eq!(fired, due);
                    }
                }
                prop_assert_eq!(wheel.armed(), model.len());
                let first = model.first().map(|&(tick, ..)| tick << TICK_SHIFT);
                let wake = wheel.next_deadline().map(Instant::as_nanos);
                prop_assert_eq!(wake.is_some(), first.is_some());
                // The wake-up is never later than the first timer, and never in the past for a timer in the future.
                if let (Some(wake), Some(first)) = (wake, first) {
                    prop_assert!(wake <= first, "wakes at {} for {}", wake, first);
                }
            }
            wheel.drain(|_| {});
        }
    }

    proptest! {
        #[test]
        fn late_timers_that_arm_and_cancel_each_other_fire_once_in_order(
            after_ns in prop::collection::vec(1u64..1 << 22, 2..TIMERS),
            acts in prop::collection::vec((any::<bool>(), 0..TIMERS), TIMERS),
        ) {
            let nodes: Vec<Node> = after_ns.iter().map(|_| Node::new(Owner::Bare)).collect();
            let wheel = Wheel::new(TickTime::ORIGIN);
            let mut model: BTreeSet<(u64, usize)> = BTreeSet::new();
            for (timer, &ns) in after_ns.iter().enumerate() {
                let at = Instant::from_nanos(ns);
                model.insert((tick_of(at), timer));
                // SAFETY: `nodes` outlives the wheel's use of them: it is drained below.
                unsafe { wheel.arm(&nodes[timer], at) };
            }
            let late = 1 << 23;
            let mut fired = Vec::new();
            let mut expected = Vec::new();
            wheel.advance(TickTime::new(Instant::from_nanos(late)), |node| {
                let timer = nodes.iter().position(|other| ptr::eq(other, node)).unwrap();
                fired.push(timer);
                expected.push(model.pop_first().map(|(_, timer)| timer));
                let (arms, other) = acts[timer];
                let other = other % nodes.len();
                model.retain(|&(_, armed)| armed != other);
                if arms {
                    // SAFETY: as above.
                    unsafe { wheel.arm(&nodes[other], Instant::from_nanos(1)) };
                } else {
                    wheel.cancel(&nodes[other]);
                }
            });
            prop_assert_eq!(fired.into_iter().map(Some).collect::<Vec<_>>(), expected);
            prop_assert!(model.is_empty(), "not fired: {:?}", model);
            wheel.drain(|_| {});
            prop_assert_eq!(wheel.armed(), 0);
        }
    }

    #[test]
    fn a_timer_that_arms_itself_for_the_past_does_not_block_the_wheel() {
        let node = Node::new(Owner::Bare);
        let wheel = Wheel::new(TickTime::new(Instant::from_nanos(0)));
        // SAFETY: `node` outlives the wheel's use of it: it is cancelled below.
        unsafe { wheel.arm(&node, Instant::from_nanos(1)) };
        let mut count = 0;
        wheel.advance(TickTime::new(Instant::from_nanos(1 << 30)), |_| {
            count += 1;
            // SAFETY: as above.
            unsafe { wheel.arm(&node, Instant::from_nanos(1)) };
        });
        assert_eq!(count, 1);
        wheel.cancel(&node);
    }

    #[test]
    fn timers_fire_at_the_end_of_the_clocks_range() {
        let node = Node::new(Owner::Bare);
        let wheel = Wheel::new(TickTime::new(Instant::NEVER));
        // SAFETY: `node` outlives the wheel's use of it: it is fired below.
        unsafe { wheel.arm(&node, Instant::from_nanos(5)) };
        let mut count = 0;
        wheel.advance(TickTime::new(Instant::NEVER), |_| count += 1);
        assert_eq!((count, wheel.armed()), (1, 0));
    }
}
