//! How long an inner packet the way taken carries (RFC 8899 in short): the longest size is taken for granted while a
//! probe of that size is under way. If that gets lost, or the socket says that something was too big, all sizes are
//! probed at once, twice, and the longest that was answered is taken. A new session or another path tries again.

use std::time::Instant;

use super::{Output, Peer, Purpose};
use crate::tunnel::path::Path;

/// Sizes below the interface's MTU that are tried. The last fits the IPv6 minimum of 1280 with 80 bytes around it.
const SIZES: [u16; 5] = [1420, 1400, 1340, 1280, 1200];

/// What is known of one way.
#[derive(Debug, Clone, Copy)]
pub(super) struct PathMtu {
    /// The way that this is about.
    path: Option<Path>,
    /// Longest inner packet to send.
    pub(super) size: u16,
    /// Longest that was answered in this search.
    answered: u16,
    /// Probes under way.
    pending: u8,
    /// Whether all sizes are being tried.
    all: bool,
}

impl PathMtu {
    pub(super) const UNKNOWN: Self = Self { path: None, size: u16::MAX, answered: 0, pending: 0, all: false };

    /// No probe that is under way counts any more, and what was answered has to be answered again: a path may have
    /// come to carry less without a word.
    pub(super) fn forget_probes(&mut self) {
        (self.answered, self.pending, self.all) = (0, 0, false);
    }
}

impl Peer {
    /// Tries the longest size on the way taken, if it is another way, or if it was found to carry less.
    pub(super) fn search_mtu(&mut self, now: Instant, out: &mut Output) {
        let Some((_, path)) = self.sending() else { return };
        if self.mtu.path != Some(path) {
            self.mtu = PathMtu { path: Some(path), size: out.mtu, ..PathMtu::UNKNOWN };
            out.table_changed = true;
        } else if self.mtu.size == out.mtu && self.mtu.answered == out.mtu || self.mtu.pending > 0 {
            return;
        }
        if path.is_stream() {
            return;
        }
        (self.mtu.answered, self.mtu.all) = (0, false);
        self.probe_size(out.mtu, now, out);
    }

    /// A datagram was too long for the socket, or for the way.
    pub(in crate::tunnel) fn handle_too_big(&mut self, now: Instant, out: &mut Output) {
        let Some((_, path)) = self.sending() else { return };
        if self.mtu.all || self.mtu.path != Some(path) {
            return;
        }
        (self.mtu.answered, self.mtu.all) = (0, true);
        let longest = out.mtu;
        for _ in 0..2 {
            self.probe_size(longest, now, out);
            for size in SIZES.into_iter().filter(|size| *size < longest) {
                self.probe_size(size, now, out);
            }
        }
    }

    fn probe_size(&mut self, size: u16, now: Instant, out: &mut Output) {
        if let Some(path) = self.mtu.path {
            self.mtu.pending = self.mtu.pending.saturating_add(1);
            self.probe(path, Purpose::Size(size), now, out);
        }
    }

    /// A probe of `size` on `path` was answered, or got lost.
    pub(super) fn size_probed(
        &mut self,
        path: Path,
        size: u16,
        answered: bool,
        now: Instant,
        out: &mut Output,
    ) {
        if self.mtu.path != Some(path) {
            return;
        }
        self.mtu.pending = self.mtu.pending.saturating_sub(1);
        if answered {
            self.mtu.answered = self.mtu.answered.max(size);
        }
        let done = self.mtu.pending == 0;
        if self.mtu.answered == out.mtu || (done && self.mtu.all && self.mtu.answered > 0) {
            out.table_changed |= self.mtu.size != self.mtu.answered;
            if self.mtu.size != self.mtu.answered {
                tracing::info!(peer = %self.id.short(), mtu = self.mtu.answered, "Longest packet on the path");
            }
            self.mtu.size = self.mtu.answered;
        }
        if !done {
            return;
        }
        if !self.mtu.all && self.mtu.answered == 0 {
            self.handle_too_big(now, out);
        } else {
            self.mtu.all = false;
        }
    }
}
