//! The data plane's UDP sockets: trains of equal datagrams by one system call (UDP GSO and GRO), and the same one
//! by one where the kernel cannot.

mod socket;

pub use socket::{Features, Received, Socket, UdpError};

/// The longest train the kernel takes at once, in bytes: an IPv4 packet's length less its headers.
pub const MAX_TRAIN: usize = 65_535 - 28;
/// The longest train the kernel takes at once, in datagrams (`UDP_MAX_SEGMENTS` before kernel 6.9).
pub const MAX_SEGMENTS: usize = 64;
