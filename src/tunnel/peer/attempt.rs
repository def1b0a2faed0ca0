//! Handshakes: begun, carried, answered, refused, tried again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Answered, KEEP_NEXT, News, Output, Peer};
use crate::tunnel::{
    handshake::{HandshakeError, Initiator, Offer},
    message::Message,
    session::{REKEY_AFTER_DATAGRAMS, Session},
};

/// How long a handshake by stream may take.
const STREAM_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two sendings of a handshake in a sealed datagram, and how many.
const RESEND: Duration = Duration::from_secs(1);
const RESENDS: u8 = 4;
/// After a failed handshake the next waits, twice as long each time, between these.
pub(super) const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

pub(super) struct Attempt {
    pub(super) ticket: u64,
    pub(super) initiator: Initiator,
    pub(super) carrier: Carrier,
}

pub(super) enum Carrier {
    /// The control plane carries it.
    Stream { deadline: Instant },
    /// Sealed datagrams of the session to be replaced carry it.
    Tunnel { message: Vec<u8>, resend: Instant, left: u8 },
}

impl Peer {
    pub(in crate::tunnel) fn is_attempting(&self) -> bool {
        self.attempt.is_some()
    }

    /// Whether a new handshake may begin.
    pub(in crate::tunnel) fn may_attempt(&self, now: Instant) -> bool {
        self.attempt.is_none() && self.next.is_none() && self.not_before.is_none_or(|at| at <= now)
    }

    /// Whether a new handshake is called for: nothing to send with, and something to send.
    pub(in crate::tunnel) fn needs_session(&self) -> bool {
        self.current.is_none() && !(self.waiting.is_empty() && self.pings.is_empty())
    }

    /// Whether the current session is due for a successor.
    pub(in crate::tunnel) fn needs_rekey(&self, now: Instant) -> bool {
        self.current.as_ref().is_some_and(|e| now >= e.due || e.session.sent() >= REKEY_AFTER_DATAGRAMS)
    }

    /// Begins to carry `initiator`'s message: in the tunnel if there is one, else by stream.
    pub(in crate::tunnel) fn begin(
        &mut self,
        ticket: u64,
        initiator: Initiator,
        message: Vec<u8>,
        by_stream: bool,
        now: Instant,
        out: &mut Output,
    ) {
        let carrier = match self.sending() {
            Some(_) if !by_stream => Carrier::Tunnel { message, resend: now, left: RESENDS },
            Some(_) | None => {
                out.news.push_back(News::Wanted(self.id, ticket, message));
                Carrier::Stream { deadline: now + STREAM_TIMEOUT }
            }
        };
        self.attempt = Some(Attempt { ticket, initiator, carrier });
        self.resend(now, out);
    }

    /// The other end's handshake stands, not attempt `ticket` of ours. If the other's gets lost, we try again.
    pub(in crate::tunnel) fn give_way(&mut self, ticket: Option<u64>, now: Instant, out: &mut Output) {
        if self.take_attempt(ticket).is_some() && self.current.is_none() && self.next.is_none() {
            self.not_before = Some(now + BACKOFF.0);
            out.table_changed = true;
        }
    }

    /// The peer does not want attempt `ticket`.
    pub(in crate::tunnel) fn refused(&mut self, ticket: Option<u64>, now: Instant, out: &mut Output) {
        if self.take_attempt(ticket).is_some() {
            self.back_off(now, out);
        }
    }

    /// The peer's answer to attempt `ticket` (none: the one in the tunnel) came.
    pub(in crate::tunnel) fn handle_answer(
        &mut self,
        ticket: Option<u64>,
        answer: &[u8],
        now: Instant,
        out: &mut Output,
    ) -> Result<(), HandshakeError> {
        let Some(attempt) = self.take_attempt(ticket) else { return Ok(()) };
        let (session, offer) = attempt.initiator.finish(answer).inspect_err(|_| self.back_off(now, out))?;
        self.tell_paths(&offer, out);
        // By stream: nothing was answered in the tunnel, if there was one.
        if ticket.is_some() {
            self.paths.forget_choice();
        }
        self.establish(Arc::new(session), now, out);
        Ok(())
    }

    pub(super) fn take_attempt(&mut self, ticket: Option<u64>) -> Option<Attempt> {
        self.attempt.take_if(|attempt| ticket.is_none_or(|ticket| ticket == attempt.ticket))
    }

    /// Attempt `ticket` failed on its way.
    pub(in crate::tunnel) fn handle_failure(&mut self, ticket: u64, now: Instant, out: &mut Output) {
        self.refused(Some(ticket), now, out);
    }

    /// We answered the peer's handshake: the session waits for its first datagram.
    pub(in crate::tunnel) fn offer(
        &mut self,
        session: Session,
        offer: &Offer,
        now: Instant,
        out: &mut Output,
    ) {
        self.attempt = None;
        self.tell_paths(offer, out);
        self.next = Some((Arc::new(session), now + KEEP_NEXT));
        out.table_changed = true;
    }

    /// The answer given to the very same request: it got lost.
    pub(in crate::tunnel) fn answer_again(&self, request: &[u8]) -> Option<Vec<u8>> {
        self.answered
            .as_ref()
            .filter(|answered| answered.request == request)
            .map(|answered| answered.answer.clone())
    }

    /// Whether the peer asks for sessions faster than anybody honest does: each costs us a key agreement.
    pub(in crate::tunnel) fn was_just_asked(&self, now: Instant) -> bool {
        self.answered.as_ref().is_some_and(|answered| now < answered.at + RESEND)
    }

    pub(in crate::tunnel) fn remember_answer(&mut self, request: &[u8], answer: &[u8], now: Instant) {
        let at = self
            .answered
            .as_ref()
            .filter(|answered| answered.request == request)
            .map_or(now, |known| known.at);
        self.answered = Some(Answered { request: request.to_vec(), answer: answer.to_vec(), at });
    }

    pub(super) fn back_off(&mut self, now: Instant, out: &mut Output) {
        self.not_before = Some(now + self.backoff);
        self.backoff = (self.backoff * 2).min(BACKOFF.1);
        if self.current.is_none() {
            self.drop_waiting(out);
        }
    }

    pub(super) fn resend(&mut self, now: Instant, out: &mut Output) {
        let Some(attempt) = &mut self.attempt else { return };
        let due = match &mut attempt.carrier {
            Carrier::Stream { deadline } => {
                if *deadline <= now {
                    let ticket = attempt.ticket;
                    self.handle_failure(ticket, now, out);
                }
                return;
            }
            Carrier::Tunnel { resend, .. } if *resend > now => return,
            Carrier::Tunnel { left: 0, message, .. } => {
                // The tunnel does not answer; the control plane may.
                out.news.push_back(News::Wanted(self.id, attempt.ticket, std::mem::take(message)));
                attempt.carrier = Carrier::Stream { deadline: now + STREAM_TIMEOUT };
                return;
            }
            Carrier::Tunnel { message, resend, left } => {
                *resend = now + RESEND;
                *left -= 1;
                Message::Rekey(message.clone())
            }
        };
        if let Some((session, path)) = self.sending() {
            self.send(&Arc::clone(session), &due, path.endpoint(self.paths.ports(), 0), out);
        }
    }
}
