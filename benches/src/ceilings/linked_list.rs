//! Timers without a clock: nodes in doubly linked lists, the minimum work of arming and cancelling.
//!
//! Each node is in its own box, like a timer, and goes to one of `LISTS` lists. The list is given instead of being
//! computed from a deadline. Lists are rings with a head node, so linking needs no branches.

use std::cell::Cell;
use std::hint::black_box;
use std::ptr;
use std::time::{Duration, Instant};

use crate::harness::random::Random;

/// The number of lists. Few, like the slots that a wheel uses for deadlines spread over a minute, because slots become
/// wider with distance. With few lists, neighbouring nodes were linked at about the same time and lie close in memory,
/// which makes a cancel cheaper.
const LISTS: usize = 4;

struct Node {
    previous: Cell<*const Node>,
    next: Cell<*const Node>,
    /// Stands for the deadline that a timer has to store.
    at_ns: Cell<u64>,
}

impl Node {
    /// Creates a node linked to itself.
    fn alone() -> Box<Node> {
        let node = Box::new(Node {
            previous: Cell::new(ptr::null()),
            next: Cell::new(ptr::null()),
            at_ns: Cell::new(0),
        });
        node.previous.set(&raw const *node);
        node.next.set(&raw const *node);
        node
    }

    /// # Safety
    ///
    /// Both nodes are alive, and do not move until this one is unlinked.
    #[inline]
    unsafe fn link_after(&self, head: &Node, at_ns: u64) {
        self.at_ns.set(at_ns);
        self.previous.set(head);
        self.next.set(head.next.get());
        // SAFETY: linked nodes are alive, as the caller guarantees.
        unsafe { (*head.next.get()).previous.set(self) };
        head.next.set(self);
    }

    /// # Safety
    ///
    /// The neighbours are alive, as all linked nodes are.
    #[inline]
    unsafe fn unlink(&self) {
        // SAFETY: as the caller guarantees.
        unsafe {
            (*self.previous.get()).next.set(self.next.get());
            (*self.next.get()).previous.set(self.previous.get());
        }
    }
}

/// Nodes and lists. All nodes except the hot one are linked.
#[expect(
    clippy::vec_box,
    reason = "nodes point to each other, and are reached through a pointer as a timer is"
)]
struct Lists {
    heads: Vec<Box<Node>>,
    nodes: Vec<Box<Node>>,
    random: Random,
}

impl Lists {
    fn new(nodes: usize) -> Lists {
        let boxes = |count| (0..count).map(|_| Node::alone()).collect();
        let mut lists = Lists {
            heads: boxes(LISTS),
            nodes: boxes(nodes),
            random: Random::new(6),
        };
        for node in 0..nodes {
            lists.link(node);
        }
        lists
    }

    fn link(&mut self, node: usize) {
        let at = self.random.number();
        // SAFETY: nodes and heads are boxes that live as long as `self`, and the node is in no list.
        unsafe { self.nodes[node].link_after(&self.heads[at as usize % LISTS], at) };
    }

    fn unlink(&self, node: usize) {
        // SAFETY: its neighbours are nodes or heads of `self`.
        unsafe { self.nodes[node].unlink() };
    }
}

/// Measures `count` repetitions of linking and unlinking the same node.
pub fn pairs(count: usize) -> Duration {
    let lists = Lists::new(1);
    lists.unlink(0);
    let node = &lists.nodes[0];
    timed(count, |number| {
        // SAFETY: as in `Lists::link` and `Lists::unlink`.
        unsafe {
            black_box(node).link_after(&lists.heads[number % LISTS], number as u64);
            black_box(node).unlink();
        }
    })
}

/// Measures unlinking `count` nodes in random order.
pub fn cancel_at_random(count: usize) -> Duration {
    let mut lists = Lists::new(count);
    let order = lists.random.order(count);
    let start = Instant::now();
    for node in order {
        lists.unlink(node as usize);
    }
    start.elapsed()
}

/// Measures `moves` moves of a random one of `nodes` nodes to another list.
pub fn move_at_random(nodes: usize, moves: usize) -> Duration {
    let mut lists = Lists::new(nodes);
    let mut which = Random::new(12);
    timed(moves, |_| {
        let node = which.below(nodes);
        lists.unlink(node);
        lists.link(node);
    })
}

/// Measures unlinking `count` nodes, list by list, with a call for each.
pub fn take_all(count: usize) -> Duration {
    let lists = Lists::new(count);
    let taken = Cell::new(0);
    let call: &dyn Fn() = &|| taken.set(taken.get() + 1);
    let start = Instant::now();
    for head in &lists.heads {
        while !ptr::eq(head.next.get(), &raw const **head) {
            // SAFETY: a linked node is one of `lists`.
            unsafe { (*head.next.get()).unlink() };
            black_box(call)();
        }
    }
    let elapsed = start.elapsed();
    assert_eq!(taken.get(), count, "a list lost a node");
    elapsed
}

/// Returns the time of `count` repetitions, after a tenth of them as a warm-up.
fn timed(count: usize, mut once: impl FnMut(usize)) -> Duration {
    (0..count / 10).for_each(&mut once);
    let start = Instant::now();
    (0..count).for_each(&mut once);
    start.elapsed()
}
