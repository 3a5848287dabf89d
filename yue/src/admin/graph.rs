//! The wait-for graph over the fibers of several processes, its deadlocks and its longest chains.
//!
//! ```text
//!   fiber ── waits for ──▶ another fiber, the holders of a lock, or by a call the handler that serves it, in whichever
//!                          process: both ends of a link know its number, and the call's number on it
//! ```
//!
//! A wait ends when *any* of the fibers that it points to continues: one of several holders of a semaphore, one of
//! several futures. So a fiber is alive if it does not wait, if anything else than a known fiber may end its wait (a
//! timer, a socket, a peer that is not in the list), or if it points to a fiber that is alive. The fibers that are not
//! alive wait for each other, and the strongly connected components among them ([Tarjan]) are the deadlocks.
//!
//! The processes are asked one after the other, and continue meanwhile. A wait counts only if it is older than the
//! question ([`Process::asked_seconds`]); see `wait_graph.rs`.
//!
//! [Tarjan]: https://en.wikipedia.org/wiki/Tarjan%27s_strongly_connected_components_algorithm

mod words;

pub use words::duration;

use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet, VecDeque};

/// The answer of the admin method `wait_graph`: the fibers of a process that wait for other fibers, or serve requests.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Waits {
    /// The fibers.
    pub fibers: Vec<Wait>,
    /// Whether there are more fibers than the answer has.
    pub cut: bool,
    /// The loops that do not answer, whose fibers are missing.
    pub blocked: Vec<u32>,
}

/// One fiber, and what ends its wait.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Wait {
    /// The number of its loop.
    #[serde(rename = "loop")]
    pub loop_id: u32,
    /// Its id among the fibers of that loop.
    pub fiber: String,
    /// Its name.
    pub name: Option<String>,
    /// The line of the program in which it waits, or the function that it runs, as `file:line`.
    pub place: String,
    /// Whether it waits.
    pub waits: bool,
    /// The time that it has waited.
    pub seconds: f64,
    /// The time after which the wait ends by itself, if it has a limit.
    pub left_seconds: Option<f64>,
    /// The kind of its wait: `future`, `futures` (any of several), `mutex`, `semaphore`, `call` or `other`.
    pub kind: String,
    /// The object of its wait, in words.
    pub waits_for: String,
    /// Whether something else than these fibers and calls may end the wait.
    pub open: bool,
    /// The fibers of its loop that may end the wait.
    pub fibers: Vec<String>,
    /// The calls whose answers may end the wait.
    pub calls: Vec<String>,
    /// The method that it calls.
    pub method: String,
    /// The address that it calls.
    pub address: Option<String>,
    /// The request that it serves.
    pub serves: Option<Serves>,
}

/// The request that a fiber serves.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Serves {
    /// The call, as the caller's [`Wait::calls`] has it. `None` for a notification, and for a peer that is not a yue
    /// peer.
    pub call: Option<String>,
    /// The handler, if it is known.
    pub handler: String,
    /// The call chain that it belongs to.
    pub chain: Option<String>,
    /// The address of the caller.
    pub address: String,
}

/// The waits of one process.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Process {
    /// The process id.
    pub pid: u32,
    /// The program's name.
    pub name: String,
    /// The time between the beginning of the whole collection and this answer.
    pub asked_seconds: f64,
    /// The answer.
    pub waits: Waits,
}

/// A deadlock: fibers that wait for each other.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Cycle {
    /// The deadlock in words.
    pub text: String,
    /// The fibers of the cycle, each of which waits for the next, and the last for the first.
    pub fibers: Vec<Place>,
    /// The time since the last of these waits began.
    pub seconds: f64,
    /// The time after which one of the waits ends by itself. `None`: the deadlock lasts.
    pub ends_in_seconds: Option<f64>,
    /// The number of further fibers that wait for those of the cycle, directly or by others.
    pub others: usize,
}

/// A chain of fibers, each of which waits for the next.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Chain {
    /// The chain in words.
    pub text: String,
    /// The fibers, from the one that waits for all others on.
    pub fibers: Vec<Place>,
    /// The time that the first of them has waited.
    pub seconds: f64,
}

/// A fiber in an answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Place {
    /// The process.
    pub pid: u32,
    /// The loop.
    #[serde(rename = "loop")]
    pub loop_id: u32,
    /// The fiber.
    pub fiber: String,
    /// The fiber in words.
    pub text: String,
    /// The kind of its wait.
    pub kind: String,
    /// The time that it has waited.
    pub seconds: f64,
}

/// Chains that are found, the longest ones.
const CHAINS_MAX: usize = 10;

/// The clock of a loop is read once in a tick, so a wait may be that much younger than it seems.
const TICK_SECONDS: f64 = 0.02;

/// The graph.
#[derive(Debug)]
pub struct Graph<'a> {
    processes: &'a [Process],
    nodes: Vec<Node<'a>>,
    /// For each node those that may end its wait.
    edges: Vec<Vec<usize>>,
    alive: Vec<bool>,
}

#[derive(Debug)]
struct Node<'a> {
    /// That of the process among all.
    number: usize,
    process: &'a Process,
    wait: &'a Wait,
    /// Something that is not in the graph may end its wait.
    open: bool,
}

impl<'a> Graph<'a> {
    /// Builds the graph.
    pub fn new(processes: &'a [Process]) -> Graph<'a> {
        let mut nodes = Vec::new();
        let mut by_fiber: HashMap<(usize, u32, &str), usize> = HashMap::new();
        let mut by_call: HashMap<&str, usize> = HashMap::new();
        for (number, process) in processes.iter().enumerate() {
            for wait in &process.waits.fibers {
                by_fiber.insert((number, wait.loop_id, wait.fiber.as_str()), nodes.len());
                if let Some(call) = wait.serves.as_ref().and_then(|serves| serves.call.as_ref()) {
                    by_call.insert(call, nodes.len());
                }
                nodes.push(Node {
                    number,
                    process,
                    wait,
                    open: wait.open || !wait.waits,
                });
            }
        }
        let mut edges = Vec::with_capacity(nodes.len());
        for node in &mut nodes {
            let fibers = node.wait.fibers.iter();
            let key = |fiber| (node.number, node.wait.loop_id, fiber);
            let fibers = fibers.map(|fiber| by_fiber.get(&key(fiber.as_str())));
            let calls = node.wait.calls.iter().map(|call| by_call.get(&**call));
            let all: Vec<Option<usize>> =
                fibers.chain(calls).map(Option::<&usize>::copied).collect();
            // A missing one may be anything: a fiber that runs, a peer elsewhere, a request that has not started.
            node.open |= all.is_empty() || all.contains(&None);
            let targets = all.into_iter().flatten().filter(|_| node.wait.waits);
            edges.push(targets.collect());
        }
        let mut graph = Graph {
            processes,
            nodes,
            edges,
            alive: Vec::new(),
        };
        graph.alive = graph.find_alive(|node| node.open || !node.is_old());
        graph
    }

    /// Whether a fiber is alive: `is_open` says so, or one that it waits for is.
    fn find_alive(&self, is_open: impl Fn(&Node<'a>) -> bool) -> Vec<bool> {
        let mut waiters = vec![Vec::new(); self.nodes.len()];
        for (from, targets) in self.edges.iter().enumerate() {
            targets.iter().for_each(|to| waiters[*to].push(from));
        }
        let mut alive: Vec<bool> = self.nodes.iter().map(is_open).collect();
        let mut queue: Vec<usize> = (0..self.nodes.len()).filter(|at| alive[*at]).collect();
        while let Some(at) = queue.pop() {
            for waiter in &waiters[at] {
                if !alive[*waiter] {
                    alive[*waiter] = true;
                    queue.push(*waiter);
                }
            }
        }
        alive
    }

    /// Whether there would be a deadlock, or another one, if the waits that began during the collection counted: a
    /// second collection will tell.
    pub fn is_undecided(&self) -> bool {
        self.find_alive(|node| node.open) != self.alive
    }

    /// The deadlocks, the oldest first.
    pub fn cycles(&self) -> Vec<Cycle> {
        let components = self.components();
        let mut cycles: Vec<Cycle> = components.iter().map(|one| self.cycle_of(one)).collect();
        cycles.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        cycles
    }

    /// The strongly connected components of the fibers that are not alive, except single fibers without an edge to
    /// themselves.
    fn components(&self) -> Vec<Vec<usize>> {
        const NONE: usize = usize::MAX;
        let count = self.nodes.len();
        let (mut index, mut low) = (vec![NONE; count], vec![0; count]);
        let mut on_stack = vec![false; count];
        let (mut stack, mut found, mut next) = (Vec::new(), Vec::new(), 0);
        for root in (0..count).filter(|at| !self.alive[*at]) {
            if index[root] != NONE {
                continue;
            }
            // An explicit stack: a chain may be longer than a fiber's stack is deep.
            let mut path: Vec<(usize, usize)> = vec![(root, 0)];
            while let Some((at, edge)) = path.last_mut() {
                let at = *at;
                if *edge == 0 {
                    (index[at], low[at]) = (next, next);
                    next += 1;
                    stack.push(at);
                    on_stack[at] = true;
                }
                let target = self.edges[at].get(*edge).copied();
                *edge += 1;
                match target {
                    Some(to) if self.alive[to] => {}
                    Some(to) if index[to] == NONE => path.push((to, 0)),
                    Some(to) if on_stack[to] => low[at] = low[at].min(index[to]),
                    Some(_) => {}
                    None => {
                        path.pop();
                        if let Some((parent, _)) = path.last() {
                            low[*parent] = low[*parent].min(low[at]);
                        }
                        if low[at] == index[at] {
                            let begin = stack.iter().rposition(|other| *other == at).unwrap_or(0);
                            let component = stack.split_off(begin);
                            component.iter().for_each(|other| on_stack[*other] = false);
                            if component.len() > 1 || self.edges[at].contains(&at) {
                                found.push(component);
                            }
                        }
                    }
                }
            }
        }
        found
    }

    /// The shortest cycle of a component through its fiber that has waited longest.
    fn cycle_of(&self, component: &[usize]) -> Cycle {
        let inside: HashSet<usize> = component.iter().copied().collect();
        let by_age = |a: &&usize, b: &&usize| self.seconds(**a).total_cmp(&self.seconds(**b));
        let start = component.iter().max_by(by_age).copied().unwrap_or(0);
        let mut before: HashMap<usize, usize> = HashMap::new();
        let mut queue = VecDeque::from([start]);
        'search: while let Some(at) = queue.pop_front() {
            for to in self.edges[at].iter().filter(|to| inside.contains(to)) {
                if *to == start {
                    before.insert(start, at);
                    break 'search;
                }
                if !before.contains_key(to) {
                    before.insert(*to, at);
                    queue.push_back(*to);
                }
            }
        }
        let mut cycle = vec![start];
        let mut at = before.get(&start).copied().unwrap_or(start);
        while at != start && cycle.len() <= component.len() {
            cycle.push(at);
            at = before.get(&at).copied().unwrap_or(start);
        }
        cycle[1..].reverse();
        let seconds = component.iter().map(|at| self.seconds(*at));
        let seconds = seconds.min_by(f64::total_cmp).unwrap_or(0.0);
        let limits = component
            .iter()
            .filter_map(|at| self.nodes[*at].wait.left_seconds);
        let ends_in_seconds = limits.min_by(f64::total_cmp);
        Cycle {
            text: self.cycle_text(&cycle, seconds, ends_in_seconds),
            fibers: cycle.iter().map(|at| self.nodes[*at].place()).collect(),
            seconds,
            ends_in_seconds,
            others: self.waiters_of(&inside) + component.len() - cycle.len(),
        }
    }

    fn seconds(&self, at: usize) -> f64 {
        self.nodes[at].wait.seconds
    }

    /// The number of further fibers that wait for those, directly or by others, and for nothing that is alive.
    fn waiters_of(&self, inside: &HashSet<usize>) -> usize {
        let mut reached = inside.clone();
        let mut grows = true;
        while grows {
            let count = reached.len();
            let dead = (0..self.nodes.len()).filter(|at| !self.alive[*at]);
            let more: Vec<usize> = dead
                .filter(|at| self.edges[*at].iter().any(|to| reached.contains(to)))
                .collect();
            reached.extend(more);
            grows = reached.len() > count;
        }
        reached.len() - inside.len()
    }

    /// The longest chains whose ends are alive, those of the most fibers first.
    pub fn chains(&self) -> Vec<Chain> {
        let mut is_target = vec![false; self.nodes.len()];
        self.edges
            .iter()
            .flatten()
            .for_each(|to| is_target[*to] = true);
        let first = (0..self.nodes.len())
            .filter(|at| self.alive[*at] && !is_target[*at] && !self.edges[*at].is_empty());
        let mut paths: Vec<Vec<usize>> = first.map(|at| self.path_from(at)).collect();
        let age = |path: &Vec<usize>| (self.seconds(path[0]) * 1e6) as u64;
        paths.sort_by_key(|path| Reverse((path.len(), age(path))));
        paths.truncate(CHAINS_MAX);
        paths.iter().map(|path| self.chain_of(path)).collect()
    }

    /// Follows the waits, each to the target that has waited longest, to one that does not point further.
    fn path_from(&self, first: usize) -> Vec<usize> {
        let mut path = vec![first];
        let mut seen = HashSet::from([first]);
        let mut at = first;
        loop {
            let targets = self.edges[at].iter().copied();
            let alive = targets.filter(|to| self.alive[*to]);
            let next = alive.max_by(|a, b| self.seconds(*a).total_cmp(&self.seconds(*b)));
            match next {
                Some(next) if seen.insert(next) => {
                    path.push(next);
                    at = next;
                }
                _ => return path,
            }
        }
    }

    /// The number of fibers, and of those that wait for another one.
    pub fn counts(&self) -> (usize, usize) {
        let waiting = self.edges.iter().filter(|targets| !targets.is_empty());
        (self.nodes.len(), waiting.count())
    }

    /// The processes whose fibers are missing in part: their answers were cut, or a loop did not answer.
    pub fn incomplete(&self) -> impl Iterator<Item = &Process> {
        let processes = self.processes.iter();
        processes.filter(|process| process.waits.cut || !process.waits.blocked.is_empty())
    }
}

#[cfg(test)]
mod tests;
