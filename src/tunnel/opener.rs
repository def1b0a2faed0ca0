//! Opening the datagrams of one receive.
//!
//! A train is of one session and one flow, so what was found for a datagram (session, peer, the owner of the inner
//! source) is tried first for the next one: a train costs one lookup of each.

use std::{net::IpAddr, sync::Arc};

use super::{
    DropReason,
    packet::Addresses,
    path::Endpoint,
    route::Slot,
    session::Session,
    table::{Table, TablePeer},
    window::Arrival,
    wire::{HEADER, Header, Kind, META, Meta, OVERHEAD, TAG},
};

/// An authentic datagram.
pub struct Inbound<'table, 'datagram> {
    /// Who sent it.
    pub peer: &'table TablePeer,
    /// The session it came in.
    pub session: &'table Arc<Session>,
    /// Its part in the clear.
    pub header: Header,
    /// What it holds.
    pub content: Content<'datagram>,
    /// The control thread wants to know: the first of its session.
    pub first: bool,
    /// The control thread wants to know: the newest of its queue, from an address the peer was not known at.
    pub moved: bool,
}

/// What an authentic datagram holds.
pub enum Content<'datagram> {
    /// An IP packet whose source belongs to the peer.
    Packet(Meta, &'datagram mut [u8]),
    /// A control message.
    Control(&'datagram [u8]),
    /// Something to drop.
    Refused(DropReason),
}

/// Opens datagrams that came from one place, by one table.
pub struct Opener<'table> {
    table: &'table Table,
    from: Endpoint,
    session: Option<Known<'table>>,
    source: Option<(IpAddr, Slot)>,
}

/// The session of the last datagram.
#[derive(Clone, Copy)]
struct Known<'table> {
    slot: Slot,
    peer: &'table TablePeer,
    session: &'table Arc<Session>,
    /// Whether the peer is known to be where the datagrams come from.
    at_home: bool,
}

impl<'table> Opener<'table> {
    /// For the datagrams of one receive, which came from `from`.
    pub fn new(table: &'table Table, from: Endpoint) -> Self {
        Self { table, from, session: None, source: None }
    }

    /// Opens the next datagram.
    ///
    /// # Errors
    /// Why it is to be dropped. A stranger's datagram gets here without any crypto, a replay too.
    pub fn open<'datagram>(
        &mut self,
        datagram: &'datagram mut [u8],
    ) -> Result<Inbound<'table, 'datagram>, DropReason> {
        if datagram.len() < HEADER + TAG {
            return Err(DropReason::Short);
        }
        let header = Header::decode(datagram).ok_or(DropReason::Malformed)?;
        if header.kind == Kind::Data && datagram.len() < OVERHEAD {
            return Err(DropReason::Short);
        }
        let Known { slot, peer, session, at_home } = self.find(&header).ok_or(DropReason::UnknownSession)?;
        let opened = session.open(&header, datagram)?;
        let moved = opened.arrival == Arrival::Newest && !at_home && session.take_move();
        let content = match header.kind {
            Kind::Control => Content::Control(opened.plaintext),
            Kind::Data => self.admit(slot, opened.plaintext),
        };
        Ok(Inbound { peer, session, header, content, first: opened.first, moved })
    }

    fn find(&mut self, header: &Header) -> Option<Known<'table>> {
        if let Some(known) = self.session.filter(|known| known.session.local() == header.session) {
            return Some(known);
        }
        let (slot, session) = self.table.sessions.get(&header.session)?;
        let peer = self.table.peers.get(*slot as usize)?;
        // A neighbour's stream carries what that neighbour seals.
        if matches!(self.from, Endpoint::Stream(neighbour) if neighbour != peer.id) {
            return None;
        }
        let known = Known { slot: *slot, peer, session, at_home: peer.is_known_at(self.from) };
        self.session = Some(known);
        Some(known)
    }

    /// Cryptokey routing: the source of an inner packet must be an address that we would send to this very peer.
    fn admit<'a>(&mut self, slot: Slot, plaintext: &'a mut [u8]) -> Content<'a> {
        let Some((meta, packet)) = plaintext.split_first_chunk_mut::<META>() else {
            return Content::Refused(DropReason::Short);
        };
        let Some(Addresses { source, .. }) = Addresses::of(packet) else {
            return Content::Refused(DropReason::NotIp);
        };
        if self.source != Some((source, slot)) {
            if self.table.routes.lookup(source) != Some(slot) {
                return Content::Refused(DropReason::ForeignSource);
            }
            self.source = Some((source, slot));
        }
        Content::Packet(Meta::decode(*meta), packet)
    }
}
