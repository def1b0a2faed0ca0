//! Sealed datagrams of one length for one address, on their way to one system call.

use std::io;

use crate::{
    tunnel::Endpoint,
    udp::{MAX_SEGMENTS, MAX_TRAIN},
};

/// A train being put together.
pub(super) struct Batch {
    bytes: Vec<u8>,
    used: usize,
    segment: usize,
    count: usize,
    to: Option<Endpoint>,
}

impl Batch {
    pub(super) fn new() -> Self {
        // One datagram may be longer than a train.
        Self { bytes: vec![0; 2 * MAX_TRAIN], used: 0, segment: 0, count: 0, to: None }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many datagrams are here.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Where it goes; none while it is empty.
    pub(super) fn to(&self) -> Option<Endpoint> {
        self.to
    }

    /// Whether a datagram of `length` bytes to `to` can go with what is here: as long as the others, or shorter as the
    /// last one.
    pub(super) fn takes(&self, to: Endpoint, length: usize) -> bool {
        let closed = self.used != self.count * self.segment;
        self.count == 0
            || (self.to == Some(to)
                && !closed
                && length <= self.segment
                && self.count < MAX_SEGMENTS
                && self.used + length <= MAX_TRAIN)
    }

    /// Room for the next datagram, which counts once [`Batch::add`] is called.
    pub(super) fn room(&mut self, length: usize) -> &mut [u8] {
        &mut self.bytes[self.used..self.used + length]
    }

    pub(super) fn add(&mut self, to: Endpoint, length: usize) {
        if self.count == 0 {
            (self.segment, self.to) = (length, Some(to));
        }
        self.used += length;
        self.count += 1;
    }

    /// Hands what is here to `send`, with the length of each datagram but the last; an error comes with the number of
    /// datagrams lost.
    pub(super) fn flush(
        &mut self,
        send: impl FnOnce(&[u8], usize, Endpoint) -> io::Result<()>,
    ) -> Result<(), (io::Error, u64)> {
        let Some(to) = self.to.take() else { return Ok(()) };
        let result = send(&self.bytes[..self.used], self.segment, to);
        let count = self.count as u64;
        (self.used, self.count) = (0, 0);
        result.map_err(|error| (error, count))
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn a_train_is_of_one_length_and_one_address_and_ends_with_a_shorter_one() {
        let [a, b] = [1, 2].map(|host| Endpoint::Udp(SocketAddr::from(([10, 0, 0, host], 1))));
        let mut batch = Batch::new();
        assert!(batch.takes(a, 1400));
        batch.add(a, 1400);
        assert!(batch.takes(a, 1400) && batch.takes(a, 10));
        assert!(!batch.takes(a, 1401) && !batch.takes(b, 1400));
        batch.add(a, 10);
        assert!(!batch.takes(a, 10));
    }

    #[test]
    fn a_train_has_no_more_datagrams_and_bytes_than_the_kernel_takes() {
        let to = Endpoint::Udp(SocketAddr::from(([10, 0, 0, 1], 1)));
        for length in [40, 1400, 9000] {
            let mut batch = Batch::new();
            while batch.takes(to, length) {
                batch.room(length).fill(1);
                batch.add(to, length);
            }
            assert!(batch.count <= MAX_SEGMENTS && batch.used <= MAX_TRAIN);
            assert!(batch.count == MAX_SEGMENTS || batch.used + length > MAX_TRAIN);
        }
    }
}
