//! Why packets and datagrams were dropped: nothing is dropped without being counted.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! reasons {
    ($($variant:ident $name:literal $text:literal,)*) => {
        /// A reason to drop a packet or a datagram.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum DropReason {
            $(#[doc = $text] $variant,)*
        }

        impl DropReason {
            /// Every reason, in the order of [`Counters`].
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The reason as metrics and `status` call it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

reasons! {
    Short "short" "Received: shorter than any datagram of ours.",
    Malformed "malformed" "Received: of no kind or queue that we know.",
    UnknownSession "unknown_session" "Received: for a session that we do not have; no crypto was done.",
    Replayed "replayed" "Received: seen before, or too old to tell.",
    NotAuthentic "not_authentic" "Received: the tag is wrong.",
    NotIp "not_ip" "An inner packet that is neither IPv4 nor IPv6.",
    BadFrame "bad_frame" "To send: a frame of the interface that makes no sense.",
    BadMeta "bad_meta" "Received: what the peer says of the inner packet is not so.",
    ForeignSource "foreign_source" "Received: the inner source address does not belong to the peer.",
    BadControl "bad_control" "Received: an authentic control message that makes no sense.",
    ControlFull "control_full" "The control thread was too busy to take it.",
    DeviceRefused "device_refused" "Received: the interface did not take the packet.",
    Multicast "multicast" "To send: multicast or broadcast, which the overlay does not carry.",
    NoRoute "no_route" "To send: the destination belongs to no peer.",
    NoSession "no_session" "To send: waited for a session that did not come, or the queue was full.",
    Exhausted "exhausted" "To send: the session's key has reached its limit.",
    TooBig "too_big" "To send: larger than the path takes.",
    StreamFull "stream_full" "To send by stream: more came than it carries, or the neighbour is gone.",
    SocketRefused "socket_refused" "To send: the socket did not take the datagram.",
}

/// How many of each.
#[derive(Default)]
pub struct Counters([AtomicU64; DropReason::ALL.len()]);

impl Counters {
    /// Counts one.
    pub fn add(&self, reason: DropReason) {
        self.add_many(reason, 1);
    }

    /// Counts several.
    pub fn add_many(&self, reason: DropReason, count: u64) {
        self.0[reason as usize].fetch_add(count, Ordering::Relaxed);
    }

    /// How many were dropped for `reason`.
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize].load(Ordering::Relaxed)
    }

    /// Every reason's name and count.
    pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
        DropReason::ALL.iter().map(|&reason| (reason.name(), self.get(reason))).collect()
    }
}
