//! `/dev/net/tun`: opening the queues of one interface, step by step down to what the kernel can do.

use std::{
    fs::{File, OpenOptions},
    io::{self, IoSlice, Read, Write},
    mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use super::{Device, TunError};
use crate::tunnel::{Offloads, VNET_HEADER};

/// `TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6`: the kernel hands over TCP super-packets and partial checksums.
const TCP: libc::c_uint = 0x01 | 0x02 | 0x04;
/// `TUN_F_USO4 | TUN_F_USO6`, from kernel 6.2 on: UDP super-packets as well.
const UDP: libc::c_uint = 0x20 | 0x40;

/// `TUN_F_UDP_TUNNEL_GSO | TUN_F_UDP_TUNNEL_GSO_CSUM`, from kernel 6.17 on: super-packets in a UDP tunnel as well.
const ENCAPSULATED: libc::c_uint = 0x80 | 0x100;

/// What was opened.
pub struct Opened {
    /// The queues, as many as were asked for if the kernel can.
    pub queues: Vec<Queue>,
    /// What super-packets are on.
    pub offloads: Offloads,
}

/// One queue of a TUN interface.
pub struct Queue {
    file: File,
    vnet: bool,
    offloads: Offloads,
    /// The kernel can be asked for a frame without waiting for one, as far as is known.
    answers: AtomicBool,
}

/// What may be used where the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// The virtio-net header, without which there are no offloads.
    pub vnet: bool,
    /// Several queues.
    pub multi_queue: bool,
    /// Super-packets.
    pub offloads: Offloads,
}

impl Default for Features {
    /// All of them.
    fn default() -> Self {
        Self { vnet: true, multi_queue: true, offloads: Offloads::ALL }
    }
}

/// The flags tried, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Flags {
    vnet: bool,
    multi_queue: bool,
}

const STEPS: [Flags; 4] = [
    Flags { vnet: true, multi_queue: true },
    Flags { vnet: true, multi_queue: false },
    Flags { vnet: false, multi_queue: true },
    Flags { vnet: false, multi_queue: false },
];

/// Opens `queues` queues of the interface `name`, which is made if it is not there, and makes it persistent.
///
/// The kernel hands over and takes super-packets where it can and `features` has them.
///
/// # Errors
/// [`TunError`], with the fix.
pub fn open(name: &str, queues: usize, features: &Features) -> Result<Opened, TunError> {
    if name.is_empty()
        || name.len() > 15
        || name.contains(['/', ' ', '\0', '\n'])
        || name == "."
        || name == ".."
    {
        return Err(TunError::BadName(name.to_owned()));
    }
    let mut last = None;
    let mut steps = STEPS.to_vec();
    steps.retain(|flags| !flags.vnet || features.vnet);
    // An interface that was made for several queues has to be asked for as such; then one of them is used.
    steps.sort_by_key(|flags| (!flags.vnet, flags.multi_queue != features.multi_queue));
    let queues = if features.multi_queue { queues } else { 1 };
    for flags in steps {
        match attach(name, flags) {
            Ok(first) => return finish(name, queues, flags, features.offloads, first),
            Err(TunError::Refused { source, .. }) if source.raw_os_error() == Some(libc::EINVAL) => {
                last = Some(source);
            }
            Err(error) => return Err(error),
        }
    }
    let there = Path::new("/sys/class/net").join(name);
    if there.exists() && !there.join("tun_flags").exists() {
        return Err(TunError::NameTaken(name.to_owned()));
    }
    let source = last.unwrap_or_else(|| io::Error::from_raw_os_error(libc::EINVAL));
    Err(TunError::Refused { name: name.to_owned(), action: "take hold", source })
}

fn finish(
    name: &str,
    queues: usize,
    flags: Flags,
    wanted: Offloads,
    first: File,
) -> Result<Opened, TunError> {
    if flags != STEPS[0] {
        tracing::info!(interface = name, ?flags, "the kernel's TUN device lacks a feature, going on without");
    }
    let refused = |action| {
        let name = name.to_owned();
        move |source| TunError::Refused { name, action, source }
    };
    number_ioctl(&first, libc::TUNSETPERSIST, 1).map_err(refused("make persistent the state"))?;
    let mut files = vec![first];
    while flags.multi_queue && files.len() < queues {
        files.push(attach(name, flags)?);
    }
    let offloads = if flags.vnet {
        let size = VNET_HEADER as libc::c_int;
        // SAFETY: the descriptor is open, and TUNSETVNETHDRSZ reads one int, which outlives the call.
        let result = unsafe { libc::ioctl(files[0].as_raw_fd(), libc::TUNSETVNETHDRSZ, &size) };
        if result != 0 {
            return Err(refused("set the header's size")(io::Error::last_os_error()));
        }
        set_offloads(name, &files, wanted)
    } else {
        // A persistent interface keeps what its last user switched on.
        set_offloads(name, &files, Offloads::NONE)
    };
    let queues = files
        .into_iter()
        .map(|file| Queue { file, vnet: flags.vnet, offloads, answers: true.into() })
        .collect();
    Ok(Opened { queues, offloads })
}

/// Switches on what the kernel can of what is wanted. An interface that was there keeps nothing of its last user's.
fn set_offloads(name: &str, files: &[File], wanted: Offloads) -> Offloads {
    const NO_TUNNELS: Offloads = Offloads { encapsulated: false, ..Offloads::ALL };
    const TCP_ALONE: Offloads = Offloads { udp: false, ..NO_TUNNELS };
    let steps = [
        (Offloads::ALL, TCP | UDP | ENCAPSULATED, "super-packets in UDP tunnels, as VXLAN's (from 6.17 on)"),
        (NO_TUNNELS, TCP | UDP, "UDP super-packets (from 6.2 on)"),
        (TCP_ALONE, TCP, "super-packets at all: going on packet by packet"),
    ];
    let wants = |step: &Offloads| {
        (!step.tcp || wanted.tcp) && (!step.udp || wanted.udp) && (!step.encapsulated || wanted.encapsulated)
    };
    for (offloads, bits, missing) in steps.into_iter().filter(|(step, ..)| wants(step)) {
        if files.iter().all(|file| number_ioctl(file, libc::TUNSETOFFLOAD, bits).is_ok()) {
            return offloads;
        }
        tracing::info!(interface = name, "the kernel's TUN device does without {missing}");
    }
    for file in files {
        // What has no offloads need not be told so.
        let _ = number_ioctl(file, libc::TUNSETOFFLOAD, 0);
    }
    Offloads::NONE
}

fn attach(name: &str, flags: Flags) -> Result<File, TunError> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun").map_err(TunError::NoDevice)?;
    let mut bits = libc::IFF_TUN | libc::IFF_NO_PI;
    if flags.vnet {
        bits |= libc::IFF_VNET_HDR;
    }
    if flags.multi_queue {
        bits |= libc::IFF_MULTI_QUEUE;
    }
    // SAFETY: ifreq is plain data, for which all zeros is a value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = bits as libc::c_short;
    // SAFETY: the descriptor is open, and TUNSETIFF reads and writes one ifreq, which outlives the call; its name ends
    // with a zero byte because `open` has checked that it is shorter than the field.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &mut request) };
    if result == 0 {
        return Ok(file);
    }
    let error = io::Error::last_os_error();
    Err(match error.raw_os_error() {
        Some(libc::EPERM) => TunError::NotAllowed(name.to_owned()),
        Some(libc::EBUSY | libc::E2BIG) => TunError::InUse(name.to_owned()),
        Some(_) | None => TunError::Refused { name: name.to_owned(), action: "take hold", source: error },
    })
}

fn number_ioctl(file: &File, request: libc::Ioctl, number: libc::c_uint) -> io::Result<()> {
    // SAFETY: the descriptor is open; both requests used here take a number, not a pointer.
    match unsafe { libc::ioctl(file.as_raw_fd(), request, libc::c_ulong::from(number)) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Queue {
    /// Where the kernel's frame goes in ours, whose header is cleared if the kernel sends none.
    fn body<'a>(&self, frame: &'a mut [u8]) -> &'a mut [u8] {
        if self.vnet {
            return frame;
        }
        let (header, packet) = frame.split_at_mut(VNET_HEADER);
        header.fill(0);
        packet
    }

    fn length(&self, read: usize) -> usize {
        if self.vnet { read } else { read + VNET_HEADER }
    }
}

impl Device for Queue {
    fn read(&self, frame: &mut [u8]) -> io::Result<usize> {
        let read = (&self.file).read(self.body(frame))?;
        Ok(self.length(read))
    }

    fn read_ready(&self, frame: &mut [u8]) -> io::Result<Option<usize>> {
        let body = self.body(frame);
        let part = libc::iovec { iov_base: body.as_mut_ptr().cast(), iov_len: body.len() };
        // SAFETY: the descriptor is open; the one iovec names `body`, which is borrowed mutably for the whole call, and
        // the kernel writes at most its length. Offset -1 means the file's own position, as for readv(2). musl 1.2.3
        // has no wrapper for this call.
        let read = unsafe {
            libc::syscall(
                libc::SYS_preadv2,
                self.file.as_raw_fd(),
                &part,
                1,
                -1 as libc::c_long,
                -1 as libc::c_long,
                libc::RWF_NOWAIT,
            )
        };
        if read >= 0 {
            return Ok(Some(self.length(read as usize)));
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EAGAIN) => Ok(None),
            Some(libc::EOPNOTSUPP) => {
                self.answers.store(false, Ordering::Relaxed);
                Ok(None)
            }
            Some(_) | None => Err(error),
        }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.answers.load(Ordering::Relaxed).then(|| self.file.as_fd())
    }

    fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let parts = if self.vnet { parts } else { &parts[1..] };
        (&self.file).write_vectored(parts).map(|_| ())
    }

    fn offloads(&self) -> Offloads {
        self.offloads
    }
}
