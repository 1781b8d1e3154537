//! Priority queues of small numbers: one a CPU, each number in one of them at most.

use crate::ids::{MAX_CPUS, MAX_VCPUS, MAX_VMS, Ns, Table};

/// How many numbers there can be: vCPUs, and then VMs.
const N: usize = (MAX_VCPUS + MAX_VMS).next_power_of_two();

/// One binary heap for each CPU, smallest key first. Every operation is O(log [`N`]) at most.
#[cfg_attr(test, derive(Clone, Hash))]
pub(crate) struct Queues {
    heaps: Table<Table<u8, N>, MAX_CPUS>,
    lens: Table<u8, MAX_CPUS>,
    /// By CPU: the complement of the first key, or 0.
    firsts: Table<Ns, MAX_CPUS>,
    /// By number: the key, the queue's CPU plus one (0: not in any), and the place in the heap.
    keys: Table<Ns, N>,
    cpus: Table<u8, N>,
    places: Table<u8, N>,
}

impl Queues {
    pub(crate) const fn new() -> Self {
        Self {
            heaps: Table([Table([0; N]); MAX_CPUS]),
            lens: Table([0; MAX_CPUS]),
            firsts: Table([0; MAX_CPUS]),
            keys: Table([0; N]),
            cpus: Table([0; N]),
            places: Table([0; N]),
        }
    }

    /// The key of `id`, if it is in some queue.
    pub(crate) fn key(&self, id: usize) -> Option<Ns> {
        (self.cpus[id] != 0).then(|| self.keys[id])
    }

    /// The CPU in whose queue `id` is.
    pub(crate) fn cpu(&self, id: usize) -> Option<usize> {
        usize::from(self.cpus[id]).checked_sub(1)
    }

    /// The first key of a CPU's queue; of an empty one, the largest that there is.
    #[inline]
    pub(crate) fn first_key(&self, cpu: usize) -> Ns {
        !self.firsts[cpu]
    }

    /// The first of a CPU's queue, and its key.
    #[inline]
    pub(crate) fn first(&self, cpu: usize) -> Option<(usize, Ns)> {
        let key = self.first_key(cpu);
        (key != Ns::MAX).then(|| (usize::from(self.heaps[cpu][0]), key))
    }

    /// Takes out the first of a CPU's queue if its key is at most `limit`.
    #[inline]
    pub(crate) fn pop_until(&mut self, cpu: usize, limit: Ns) -> Option<(usize, Ns)> {
        let (id, key) = self.first(cpu).filter(|&(_, key)| key <= limit)?;
        self.remove_from(cpu, id);
        Some((id, key))
    }

    /// The members of a CPU's queue, in no order, with their keys.
    pub(crate) fn members(&self, cpu: usize) -> impl Iterator<Item = (usize, Ns)> {
        let heap = self.heaps[cpu].0.iter().take(self.lens[cpu].into());
        heap.map(|&id| (usize::from(id), self.keys[usize::from(id)]))
    }

    /// Puts `id` into a CPU's queue, out of any other. A key that is the largest number would never come.
    #[inline]
    pub(crate) fn insert(&mut self, cpu: usize, id: usize, key: Ns) {
        self.remove(id);
        self.push(cpu, id, key);
    }

    #[inline(never)]
    fn push(&mut self, cpu: usize, id: usize, key: Ns) {
        self.keys[id] = key.min(Ns::MAX - 1);
        self.cpus[id] = cpu as u8 + 1;
        self.lens[cpu] += 1;
        self.up(cpu, usize::from(self.lens[cpu]) - 1, id);
        self.firsts[cpu] = !self.keys[usize::from(self.heaps[cpu][0])];
    }

    /// Takes `id` out of its queue.
    #[inline]
    pub(crate) fn remove(&mut self, id: usize) {
        if let Some(cpu) = self.cpu(id) {
            self.remove_from(cpu, id);
        }
    }

    #[inline(never)]
    fn remove_from(&mut self, cpu: usize, id: usize) {
        self.cpus[id] = 0;
        self.lens[cpu] -= 1;
        let last = usize::from(self.lens[cpu]);
        let moved = usize::from(self.heaps[cpu][last]);
        if moved != id {
            let place = usize::from(self.places[id]);
            let place = self.down(cpu, place, last);
            self.up(cpu, place, moved);
        }
        self.firsts[cpu] = if last == 0 { 0 } else { !self.keys[usize::from(self.heaps[cpu][0])] };
    }

    /// Finds the place for `id` from `place` towards the root.
    #[inline(always)]
    fn up(&mut self, cpu: usize, mut place: usize, id: usize) {
        while place > 0 {
            let parent = self.heaps[cpu][(place - 1) / 2];
            if self.keys[usize::from(parent)] <= self.keys[id] {
                break;
            }
            self.put(cpu, place, parent);
            place = (place - 1) / 2;
        }
        self.put(cpu, place, id as u8);
    }

    /// Moves the gap at `place` to a leaf of a heap of `len`. Returns where that is.
    #[inline(always)]
    fn down(&mut self, cpu: usize, mut place: usize, len: usize) -> usize {
        loop {
            let mut child = 2 * place + 1;
            if child >= len {
                return place;
            }
            let key = |child: usize| self.keys[usize::from(self.heaps[cpu][child])];
            if child + 1 < len && key(child + 1) < key(child) {
                child += 1;
            }
            self.put(cpu, place, self.heaps[cpu][child]);
            place = child;
        }
    }

    fn put(&mut self, cpu: usize, place: usize, id: u8) {
        self.heaps[cpu][place] = id;
        self.places[usize::from(id)] = place as u8;
    }
}
