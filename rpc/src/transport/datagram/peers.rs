//! The peers of a listener, by address, in the order of their last use.
//!
//! A slab whose slots form a list: the head was used longest ago. Every operation takes constant time, so a flood of
//! senders costs no more for each of them.

use std::collections::HashMap;
use std::net::SocketAddr;

/// The end of the list.
const NONE: usize = usize::MAX;

struct Slot<T> {
    address: SocketAddr,
    /// `None` while the slot is free.
    value: Option<T>,
    before: usize,
    after: usize,
}

/// Values by address.
pub(super) struct Peers<T> {
    /// The standard hash has a secret, so nobody can choose addresses that collide.
    index: HashMap<SocketAddr, usize>,
    slots: Vec<Slot<T>>,
    free: Vec<usize>,
    oldest: usize,
    newest: usize,
}

impl<T> Peers<T> {
    pub(super) fn new() -> Peers<T> {
        Peers {
            index: HashMap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            oldest: NONE,
            newest: NONE,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    pub(super) fn get_mut(&mut self, address: &SocketAddr) -> Option<&mut T> {
        let index = *self.index.get(address)?;
        self.slots[index].value.as_mut()
    }

    /// The value that was used longest ago, and its address.
    pub(super) fn oldest(&self) -> Option<(SocketAddr, &T)> {
        let slot = self.slots.get(self.oldest)?;
        Some((slot.address, slot.value.as_ref()?))
    }

    /// Marks a value as the last used one.
    pub(super) fn touch(&mut self, address: &SocketAddr) {
        if let Some(&index) = self.index.get(address) {
            self.unlink(index);
            self.append(index);
        }
    }

    /// Adds a value as the last used one. It replaces another of that address.
    pub(super) fn insert(&mut self, address: SocketAddr, value: T) {
        self.remove(&address);
        let slot = Slot {
            address,
            value: Some(value),
            before: NONE,
            after: NONE,
        };
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index] = slot;
                index
            }
            None => {
                self.slots.push(slot);
                self.slots.len() - 1
            }
        };
        self.index.insert(address, index);
        self.append(index);
    }

    pub(super) fn remove(&mut self, address: &SocketAddr) -> Option<T> {
        let index = self.index.remove(address)?;
        self.unlink(index);
        self.free.push(index);
        self.slots[index].value.take()
    }

    fn unlink(&mut self, index: usize) {
        let (before, after) = (self.slots[index].before, self.slots[index].after);
        match self.slots.get_mut(before) {
            Some(slot) => slot.after = after,
            None => self.oldest = after,
        }
        match self.slots.get_mut(after) {
            Some(slot) => slot.before = before,
            None => self.newest = before,
        }
    }

    fn append(&mut self, index: usize) {
        let last = self.newest;
        (self.slots[index].before, self.slots[index].after) = (last, NONE);
        match self.slots.get_mut(last) {
            Some(slot) => slot.after = index,
            None => self.oldest = index,
        }
        self.newest = index;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    proptest! {
        #[test]
        fn it_behaves_like_a_list(operations in prop::collection::vec((0..4u8, 0..8u16), 0..200)) {
            let (mut peers, mut list) = (Peers::new(), Vec::<u16>::new());
            for (operation, port) in operations {
                let at = list.iter().position(|other| *other == port);
                match operation {
                    0 | 1 => {
                        peers.insert(address(port), port);
                        at.map(|at| list.remove(at));
                        list.push(port);
                    }
                    2 => {
                        peers.touch(&address(port));
                        if let Some(at) = at {
                            list.remove(at);
                            list.push(port);
                        }
                    }
                    _ => prop_assert_eq!(peers.remove(&address(port)), at.map(|at| list.remove(at))),
                }
                prop_assert_eq!(peers.len(), list.len());
                let oldest = list.first().map(|port| (address(*port), port));
                prop_assert_eq!(peers.oldest(), oldest);
                let found = peers.get_mut(&address(port)).copied();
                prop_assert_eq!(found, list.contains(&port).then_some(port));
            }
            // In the list's order to the end.
            for port in list {
                let (oldest, _) = peers.oldest().expect("there are more");
                prop_assert_eq!(oldest, address(port));
                peers.remove(&oldest);
            }
            prop_assert!(peers.oldest().is_none());
        }
    }
}
