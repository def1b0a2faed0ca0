//! One socket: dual-stack, "don't fragment" on, large buffers, GSO and GRO.

use std::{
    io, mem,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    sync::atomic::{AtomicBool, Ordering},
};

use socket2::{Domain, Protocol, SockAddr, Type};

/// Asked for in both directions: 10 ms at 3 Gbit/s.
const BUFFER: usize = 4 << 20;
/// Room for the control messages of one receive, aligned as the kernel's `cmsghdr`.
const CONTROL_WORDS: usize = 16;

/// What may be used where the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// Trains sent by one call.
    pub gso: bool,
    /// Trains received by one call.
    pub gro: bool,
}

impl Default for Features {
    /// All of them.
    fn default() -> Self {
        Self { gso: true, gro: true }
    }
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum UdpError {
    /// Somebody has the port.
    #[error(
        "UDP port {0} is in use: another agent runs here, or another program has it. Stop it, or set vpn.port"
    )]
    PortTaken(u16),
    /// Anything else.
    #[error("cannot open UDP port {port} for the data plane: {source}")]
    Refused {
        /// Which port.
        port: u16,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What one receive brought: one datagram, or a train of equal ones with a shorter last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Bytes in the buffer.
    pub length: usize,
    /// Bytes of each datagram but the last.
    pub segment: usize,
    /// Who sent them; IPv4 as IPv4.
    pub from: SocketAddr,
}

/// A bound socket. Any number of threads may use it.
pub struct Socket {
    socket: socket2::Socket,
    /// A v6 socket for both families; false: this kernel has no IPv6.
    dual: bool,
    port: u16,
    gso: AtomicBool,
}

impl Socket {
    /// Binds `port` (0: any) on all addresses of both families.
    ///
    /// # Errors
    /// [`UdpError`], with the fix.
    pub fn bind(port: u16, features: Features) -> Result<Self, UdpError> {
        let refused = |source: io::Error| {
            if source.kind() == io::ErrorKind::AddrInUse {
                UdpError::PortTaken(port)
            } else {
                UdpError::Refused { port, source }
            }
        };
        let (socket, dual) = match Self::bind_dual(port) {
            Ok(socket) => (socket, true),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(UdpError::PortTaken(port)),
            Err(error) => {
                tracing::info!(%error, "no IPv6 sockets here, the data plane uses IPv4 alone");
                let socket =
                    socket2::Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).map_err(refused)?;
                socket.bind(&SocketAddr::from(([0, 0, 0, 0], port)).into()).map_err(refused)?;
                (socket, false)
            }
        };
        let bound = socket.local_addr().map_err(refused)?.as_socket().map_or(port, |address| address.port());
        let socket = Self { socket, dual, port: bound, gso: AtomicBool::new(features.gso) };
        socket.set_buffers();
        socket.never_fragment();
        if features.gro
            && let Err(error) = socket.set_option(libc::SOL_UDP, libc::UDP_GRO, 1)
        {
            tracing::info!(%error, "no UDP GRO on this kernel, receiving datagram by datagram");
        }
        Ok(socket)
    }

    /// The port bound.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sends `train` to `to` as datagrams of `segment` bytes, the last one shorter or equal.
    ///
    /// # Errors
    /// As of sendmsg(2); datagrams of the train that were sent before the error are gone.
    pub fn send(&self, train: &[u8], segment: usize, to: SocketAddr) -> io::Result<()> {
        let to = self.socket_address(to);
        if train.len() <= segment {
            return self.send_message(train, None, &to);
        }
        if self.gso.load(Ordering::Relaxed) {
            match self.send_message(train, Some(segment as u16), &to) {
                // What kernels, drivers and firewalls without GSO say, and some kernels of trains too big for the path.
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::EIO | libc::EINVAL | libc::ENOPROTOOPT | libc::EOPNOTSUPP)
                    ) =>
                {
                    self.send_one_by_one(train, segment, &to)?;
                    tracing::info!(%error, port = self.port, "UDP GSO refused, sending datagram by datagram");
                    self.gso.store(false, Ordering::Relaxed);
                    return Ok(());
                }
                other => return other,
            }
        }
        self.send_one_by_one(train, segment, &to)
    }

    fn send_one_by_one(&self, train: &[u8], segment: usize, to: &SockAddr) -> io::Result<()> {
        train.chunks(segment).try_for_each(|datagram| self.send_message(datagram, None, to))
    }

    /// Waits for a datagram or a train. A signal ends the waiting with `Interrupted`.
    ///
    /// # Errors
    /// As of recvmsg(2).
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        self.receive_message(buffer, 0)
    }

    /// What is there already.
    ///
    /// # Errors
    /// As of recvmsg(2).
    pub fn receive_ready(&self, buffer: &mut [u8]) -> io::Result<Option<Received>> {
        match self.receive_message(buffer, libc::MSG_DONTWAIT) {
            Ok(received) => Ok(Some(received)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What poll(2) may be asked of.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn bind_dual(port: u16) -> io::Result<socket2::Socket> {
        let socket = socket2::Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_only_v6(false)?;
        socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
        Ok(socket)
    }

    /// As root beyond the system's maximum, else up to it.
    fn set_buffers(&self) {
        for (force, usual) in
            [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)]
        {
            let forced = self.set_option(libc::SOL_SOCKET, force, BUFFER as libc::c_int);
            if let Err(error) =
                forced.or_else(|_| self.set_option(libc::SOL_SOCKET, usual, BUFFER as libc::c_int))
            {
                tracing::debug!(%error, "the socket's buffer keeps the system's size");
            }
        }
    }

    /// Datagrams larger than the path are refused here instead of being cut on the way.
    fn never_fragment(&self) {
        let v4 = self.set_option(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO);
        let v6 = if self.dual {
            self.set_option(libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)
        } else {
            Ok(())
        };
        if let Err(error) = v4.and(v6) {
            tracing::info!(%error, "datagrams of the data plane may be fragmented on this system");
        }
    }

    fn set_option(&self, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
        // SAFETY: the descriptor is open; the option's value is one int, whose address and size are given and which
        // outlives the call.
        let result = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                level,
                option,
                (&raw const value).cast(),
                mem::size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn socket_address(&self, to: SocketAddr) -> SockAddr {
        match to.ip() {
            IpAddr::V4(v4) if self.dual => SocketAddr::from((v4.to_ipv6_mapped(), to.port())).into(),
            IpAddr::V4(_) | IpAddr::V6(_) => to.into(),
        }
    }

    fn send_message(&self, bytes: &[u8], segment: Option<u16>, to: &SockAddr) -> io::Result<()> {
        let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let mut control = [0u64; 4];
        // SAFETY: msghdr is plain data, for which all zeros is a value.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_name = to.as_ptr().cast_mut().cast();
        message.msg_namelen = to.len();
        message.msg_iov = &mut part;
        message.msg_iovlen = 1;
        if let Some(segment) = segment {
            message.msg_control = control.as_mut_ptr().cast();
            // SAFETY: CMSG_SPACE only calculates; 24 bytes for a u16, which `control` (32 bytes, aligned as u64) holds.
            message.msg_controllen = unsafe { libc::CMSG_SPACE(2) } as _;
            // SAFETY: msg_control and msg_controllen name `control`, which holds one whole message of two bytes, so
            // CMSG_FIRSTHDR is not null and header and data lie inside; the u16 is written without need of alignment.
            unsafe {
                let header = libc::CMSG_FIRSTHDR(&message);
                (*header).cmsg_level = libc::SOL_UDP;
                (*header).cmsg_type = libc::UDP_SEGMENT;
                (*header).cmsg_len = libc::CMSG_LEN(2) as _;
                libc::CMSG_DATA(header).cast::<u16>().write_unaligned(segment);
            }
        }
        loop {
            // SAFETY: the descriptor is open; name, iovec and control message point to `to`, `bytes` and `control`, which
            // outlive the call; the kernel only reads them.
            let sent = unsafe { libc::sendmsg(self.socket.as_raw_fd(), &message, 0) };
            if sent >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    fn receive_message(&self, buffer: &mut [u8], flags: libc::c_int) -> io::Result<Received> {
        let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let mut control = [0u64; CONTROL_WORDS];
        // SAFETY: sockaddr_storage is plain data, for which all zeros is a value.
        let mut name: libc::sockaddr_storage = unsafe { mem::zeroed() };
        // SAFETY: as above, for msghdr.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_name = (&raw mut name).cast();
        message.msg_namelen = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        message.msg_iov = &mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = mem::size_of_val(&control) as _;
        // SAFETY: the descriptor is open; name, buffer and control are borrowed mutably until after the last use of
        // `message`, with their true sizes.
        let length = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &mut message, flags) };
        if length < 0 {
            return Err(io::Error::last_os_error());
        }
        let length = length as usize;
        Ok(Received {
            length,
            segment: segment_of(&message).unwrap_or(length).max(1),
            from: address_of(&name)?,
        })
    }
}

/// The segment size that UDP GRO reports, if it joined several datagrams.
fn segment_of(message: &libc::msghdr) -> Option<usize> {
    // SAFETY: `message` was filled by recvmsg, so its control buffer holds msg_controllen bytes of whole messages, and
    // is alive: it belongs to the caller. UDP_GRO's data is one int.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_UDP && (*header).cmsg_type == libc::UDP_GRO {
                let size = libc::CMSG_DATA(header).cast::<libc::c_int>().read_unaligned();
                return usize::try_from(size).ok().filter(|size| *size > 0);
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    None
}

fn address_of(name: &libc::sockaddr_storage) -> io::Result<SocketAddr> {
    // SAFETY: recvmsg filled in the family, and `name` is as large as either kind of address.
    unsafe {
        match libc::c_int::from(name.ss_family) {
            libc::AF_INET => {
                let v4 = &*(&raw const *name).cast::<libc::sockaddr_in>();
                let ip = IpAddr::from(v4.sin_addr.s_addr.to_ne_bytes());
                Ok(SocketAddr::new(ip, u16::from_be(v4.sin_port)))
            }
            libc::AF_INET6 => {
                let v6 = &*(&raw const *name).cast::<libc::sockaddr_in6>();
                let ip = IpAddr::from(v6.sin6_addr.s6_addr).to_canonical();
                Ok(SocketAddr::new(ip, u16::from_be(v6.sin6_port)))
            }
            _ => Err(io::Error::from(io::ErrorKind::InvalidData)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive_all(socket: &Socket, count: usize) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut buffer = vec![0; 65_536];
        let mut all = Vec::new();
        while all.len() < count {
            let received = socket.receive(&mut buffer).expect("something is under way");
            let datagrams = buffer[..received.length].chunks(received.segment);
            all.extend(datagrams.map(|datagram| (received.from, datagram.to_vec())));
        }
        all
    }

    #[test]
    fn a_train_arrives_as_the_datagrams_it_was_made_of_over_both_families() {
        let bind = |gro| Socket::bind(0, Features { gso: true, gro }).unwrap();
        let train: Vec<u8> = (0..1000u32).map(|i| (i / 300) as u8).collect();
        for ip in ["127.0.0.1", "::1"] {
            let ip: IpAddr = ip.parse().unwrap();
            for (gso, gro) in [(true, true), (false, true), (true, false), (false, false)] {
                let (a, b) = (bind(true), bind(gro));
                if ip.is_ipv6() && !b.dual {
                    continue;
                }
                a.gso.store(gso, Ordering::Relaxed);
                a.send(&train, 300, SocketAddr::new(ip, b.port())).expect("loopback takes it");
                let got = receive_all(&b, 4);
                assert!(got.iter().all(|(from, _)| *from == SocketAddr::new(ip, a.port())), "{got:?}");
                let datagrams: Vec<Vec<u8>> = train.chunks(300).map(<[u8]>::to_vec).collect();
                assert_eq!(got.into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>(), datagrams);
            }
        }
    }

    #[test]
    fn a_taken_port_is_named() {
        let socket = Socket::bind(0, Features::default()).unwrap();
        assert!(
            matches!(Socket::bind(socket.port(), Features::default()), Err(UdpError::PortTaken(port)) if port == socket.port())
        );
    }
}
