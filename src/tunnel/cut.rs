//! From a frame of the interface to whole IP packets: a super-packet is cut at its own gso_size.
//!
//! Headers are copied and patched; checksums stay partial, marked in [`Meta`], since the receiver's kernel, or nobody,
//! needs them: the AEAD proves integrity. Lengths stay those of the super-packet: the receiver writes those of what was
//! authenticated, once for all that it joins. Only where it could not tell where a checksum belongs is that completed
//! here.
//!
//! A super-packet in a UDP tunnel (flannel's VXLAN) is cut by the headers inside of it, in the same way.
//!
//! UDP without a checksum (VXLAN, as a rule) is given a partial one: so the receiver can join such packets, and nobody
//! calculates it unless it leaves the receiver's machine.

use super::{
    DropReason,
    headers::Headers,
    layout::{Layout, Transport, complete},
    vnet::{Gso, VnetHeader},
    wire::Meta,
};

/// A frame, ready to be taken packet by packet.
#[derive(Debug, Clone, Copy)]
pub struct Cut<'a> {
    packet: &'a [u8],
    how: How,
}

#[derive(Debug, Clone, Copy)]
enum How {
    /// One packet, its checksums complete, or none where these headers say.
    Whole(Option<Headers>),
    /// One packet, its checksum partial where the receiver finds it.
    Partial(Headers),
    /// One packet, its checksum partial in some other place.
    Complete { start: usize, field: usize, unsummed: Option<Headers> },
    /// A super-packet.
    Super { headers: Headers, gso_size: usize },
}

impl<'a> Cut<'a> {
    /// Looks at a frame that was read from the interface.
    ///
    /// # Errors
    /// Why it is to be dropped: the kernel hands over nothing of the kind.
    pub fn new(header: &VnetHeader, packet: &'a [u8]) -> Result<Self, DropReason> {
        let headers = match header.encapsulation {
            None => Headers::plain(packet),
            Some(outer) => Headers::encapsulated(packet, usize::from(outer.inner)),
        };
        let start = usize::from(header.checksum_start);
        let field = start + usize::from(header.checksum_offset);
        let ours =
            headers.filter(|Headers { inner, .. }| (inner.start, inner.checksum().start) == (start, field));
        let how = match (header.gso, ours) {
            (Gso::None, _) if !header.needs_checksum => How::Whole(unsummed(packet)),
            (Gso::None, Some(headers)) => How::Partial(headers),
            (Gso::None, None) if field + 2 <= packet.len() => {
                How::Complete { start, field, unsummed: unsummed(packet) }
            }
            (Gso::Tcp4 | Gso::Tcp6 | Gso::Udp, Some(headers)) if header.gso_size > 0 => {
                How::Super { headers, gso_size: usize::from(header.gso_size) }
            }
            (Gso::None | Gso::Tcp4 | Gso::Tcp6 | Gso::Udp | Gso::Other, _) => {
                return Err(DropReason::BadFrame);
            }
        };
        Ok(Self { packet, how })
    }

    /// How many packets it is, at least one.
    pub fn len(&self) -> usize {
        match self.how {
            How::Super { headers, gso_size } => {
                (self.packet.len() - headers.length()).div_ceil(gso_size).max(1)
            }
            How::Whole(_) | How::Partial(_) | How::Complete { .. } => 1,
        }
    }

    /// Never: there is always a packet.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Bytes of packet `index`.
    pub fn length(&self, index: usize) -> usize {
        match self.how {
            How::Super { headers, gso_size } => {
                let left = (self.packet.len() - headers.length()).saturating_sub(index * gso_size);
                headers.length() + left.min(gso_size)
            }
            How::Whole(_) | How::Partial(_) | How::Complete { .. } => self.packet.len(),
        }
    }

    /// Writes packet `index` to `to`, which has exactly its length.
    pub fn write(&self, index: usize, to: &mut [u8]) -> Meta {
        match self.how {
            How::Whole(unsummed) => {
                to.copy_from_slice(self.packet);
                unsummed.map_or_else(Meta::default, |headers| headers.meta())
            }
            How::Partial(headers) => {
                to.copy_from_slice(self.packet);
                headers.meta()
            }
            How::Complete { start, field, unsummed } => {
                to.copy_from_slice(self.packet);
                complete(to, start, field);
                unsummed.map_or_else(Meta::default, |headers| headers.meta())
            }
            How::Super { headers, gso_size } => {
                let (head, payload) = to.split_at_mut(headers.length());
                head.copy_from_slice(&self.packet[..headers.length()]);
                let from = headers.length() + index * gso_size;
                payload.copy_from_slice(&self.packet[from..from + payload.len()]);
                headers.make_part(head, index, gso_size, index + 1 == self.len());
                headers.meta()
            }
        }
    }
}

/// The headers of UDP that has no checksum. Its length is that of the packet: the receiver writes both anew.
fn unsummed(packet: &[u8]) -> Option<Headers> {
    let layout = Layout::of(packet)?;
    let length = (packet.len() - layout.start) as u16;
    let without = layout.transport == Transport::Udp
        && packet[layout.checksum()] == [0, 0]
        && packet[layout.start + 4..layout.start + 6] == length.to_be_bytes();
    without.then_some(Headers { outer: None, inner: layout })
}
