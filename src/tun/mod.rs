//! The interface: frames in and out of `/dev/net/tun`, its addresses and routes by netlink.
//!
//! A frame is a virtio-net header of [`VNET_HEADER`] bytes and an IP packet, in both directions; a device that has no
//! such header gets none, and its frames read as having an empty one. The interface is persistent: it, its addresses
//! and what others built on it (flannel's VXLAN device) outlive the process.

mod gateways;
mod interface;
mod queue;
mod wake;

use std::{
    io::{self, IoSlice},
    os::fd::BorrowedFd,
};

pub use gateways::watch_gateways;
pub use interface::{Overlay, configure, delete};
pub use queue::{Features, Opened, Queue, open};
pub use wake::interrupt_until_finished;

use crate::tunnel::{Offloads, VNET_HEADER};

/// The longest frame: the header and the longest IP packet.
pub const MAX_FRAME: usize = VNET_HEADER + 65_535;

/// One queue of an interface. Its reader and its writer may be two threads.
pub trait Device: Send + Sync + 'static {
    /// Waits for a frame; gives its length. A signal ends the waiting with `Interrupted`.
    ///
    /// # Errors
    /// As of read(2); the interface is gone if it is none of `Interrupted` and `WouldBlock`.
    fn read(&self, frame: &mut [u8]) -> io::Result<usize>;

    /// A frame if one is there already.
    ///
    /// # Errors
    /// As [`Device::read`].
    fn read_ready(&self, frame: &mut [u8]) -> io::Result<Option<usize>>;

    /// What poll(2) may be asked of; none if [`Device::read_ready`] does not work here.
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;

    /// Writes one frame; `parts[0]` is the virtio-net header and nothing else.
    ///
    /// # Errors
    /// As of writev(2): the packet is lost, nothing else.
    fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<()>;

    /// What super-packets it takes.
    fn offloads(&self) -> Offloads;
}

/// Why there is no interface.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// No device node.
    #[error("cannot open /dev/net/tun: {0}. Load the module `tun`; in a container, hand the device in")]
    NoDevice(io::Error),
    /// Not allowed.
    #[error("may not create the interface {0}: the capability CAP_NET_ADMIN is missing. Run as root")]
    NotAllowed(String),
    /// The name belongs to something else.
    #[error(
        "the interface {0} exists and is no TUN device. Choose another name with vpn.interface, or remove it"
    )]
    NameTaken(String),
    /// Another process has it.
    #[error(
        "the interface {0} is in use by another process. Stop that one, or choose another name with vpn.interface"
    )]
    InUse(String),
    /// The name cannot be one.
    #[error("{0:?} cannot be the name of an interface: 1 to 15 bytes without '/' and spaces")]
    BadName(String),
    /// The kernel said no to something.
    #[error("cannot {action} of the interface {name}: {source}")]
    Refused {
        /// Which interface.
        name: String,
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}
