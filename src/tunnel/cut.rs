//! From a frame of the interface to whole IP packets: a super-packet is cut at its own gso_size.
//!
//! Headers are copied and patched; checksums stay partial, marked in [`Meta`], since the receiver's kernel, or nobody,
//! needs them: the AEAD proves integrity. Lengths stay those of the super-packet: the receiver writes those of what was
//! authenticated, once for all that it joins. Only where it could not tell where a checksum belongs is that completed
//! here.
//!
//! UDP without a checksum (VXLAN, as a rule) is given a partial one: so the receiver can join such packets, and nobody
//! calculates it unless it leaves the receiver's machine.

use super::{
    DropReason,
    layout::{Layout, Transport, complete},
    vnet::{Gso, VnetHeader},
    wire::Meta,
};

/// TCP's FIN and PSH: only the last packet keeps them.
const LAST_FLAGS: u8 = 0x09;
/// TCP's CWR: only the first packet keeps it.
const FIRST_FLAGS: u8 = 0x80;

/// A frame, ready to be taken packet by packet.
#[derive(Debug, Clone, Copy)]
pub struct Cut<'a> {
    packet: &'a [u8],
    how: How,
}

#[derive(Debug, Clone, Copy)]
enum How {
    /// One packet, its checksums complete, or none where the layout says.
    Whole(Option<Layout>),
    /// One packet, its checksum partial where the receiver finds it.
    Partial(Layout),
    /// One packet, its checksum partial in some other place.
    Complete { start: usize, field: usize, unsummed: Option<Layout> },
    /// A super-packet.
    Super { layout: Layout, gso_size: usize },
}

impl<'a> Cut<'a> {
    /// Looks at a frame that was read from the interface.
    ///
    /// # Errors
    /// Why it is to be dropped: the kernel hands over nothing of the kind.
    pub fn new(header: &VnetHeader, packet: &'a [u8]) -> Result<Self, DropReason> {
        let layout = Layout::of(packet);
        let start = usize::from(header.checksum_start);
        let field = start + usize::from(header.checksum_offset);
        let ours = layout.filter(|layout| layout.start == start && layout.checksum().start == field);
        let how = match (header.gso, ours) {
            (Gso::None, _) if !header.needs_checksum => How::Whole(unsummed(packet, layout)),
            (Gso::None, Some(layout)) => How::Partial(layout),
            (Gso::None, None) if field + 2 <= packet.len() => {
                How::Complete { start, field, unsummed: unsummed(packet, layout) }
            }
            (Gso::Tcp4 | Gso::Tcp6 | Gso::Udp, Some(layout)) if header.gso_size > 0 => {
                How::Super { layout, gso_size: usize::from(header.gso_size) }
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
            How::Super { layout, gso_size } => (self.packet.len() - layout.payload).div_ceil(gso_size).max(1),
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
            How::Super { layout, gso_size } => {
                let left = (self.packet.len() - layout.payload).saturating_sub(index * gso_size);
                layout.payload + left.min(gso_size)
            }
            How::Whole(_) | How::Partial(_) | How::Complete { .. } => self.packet.len(),
        }
    }

    /// Writes packet `index` to `to`, which has exactly its length.
    pub fn write(&self, index: usize, to: &mut [u8]) -> Meta {
        match self.how {
            How::Whole(unsummed) => {
                to.copy_from_slice(self.packet);
                unsummed.map_or_else(Meta::default, partial)
            }
            How::Partial(layout) => {
                to.copy_from_slice(self.packet);
                partial(layout)
            }
            How::Complete { start, field, unsummed } => {
                to.copy_from_slice(self.packet);
                complete(to, start, field);
                unsummed.map_or_else(Meta::default, partial)
            }
            How::Super { layout, gso_size } => self.write_part(&layout, gso_size, index, to),
        }
    }

    fn write_part(&self, layout: &Layout, gso_size: usize, index: usize, to: &mut [u8]) -> Meta {
        let (first, last) = (index == 0, index + 1 == self.len());
        let (headers, payload) = to.split_at_mut(layout.payload);
        headers.copy_from_slice(&self.packet[..layout.payload]);
        let from = layout.payload + index * gso_size;
        payload.copy_from_slice(&self.packet[from..from + payload.len()]);
        if !layout.v6 {
            let id = u16::from_be_bytes([headers[4], headers[5]]).wrapping_add(index as u16);
            headers[4..6].copy_from_slice(&id.to_be_bytes());
        }
        if layout.transport == Transport::Tcp {
            let field = &mut headers[layout.sequence()];
            let sequence = u32::from_be_bytes([field[0], field[1], field[2], field[3]]);
            field.copy_from_slice(&sequence.wrapping_add((index * gso_size) as u32).to_be_bytes());
            let flags = &mut headers[layout.flags()];
            *flags &= !if last { 0 } else { LAST_FLAGS };
            *flags &= !if first { 0 } else { FIRST_FLAGS };
        }
        Meta { partial_checksum: true, train: true, first, last, checksum_start: layout.start as u16 }
    }
}

/// The layout of UDP that has no checksum. Its length is that of the packet: the receiver writes both anew.
fn unsummed(packet: &[u8], layout: Option<Layout>) -> Option<Layout> {
    layout.filter(|layout| {
        let length = (packet.len() - layout.start) as u16;
        layout.transport == Transport::Udp
            && packet[layout.checksum()] == [0, 0]
            && packet[layout.start + 4..layout.start + 6] == length.to_be_bytes()
    })
}

fn partial(layout: Layout) -> Meta {
    Meta { partial_checksum: true, checksum_start: layout.start as u16, ..Meta::default() }
}
