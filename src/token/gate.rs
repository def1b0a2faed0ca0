//! Who is let in, and with which token.
//!
//! While a token is being replaced several are good at a time; one that was replaced is good only for fetching the new
//! one; who is banned gets in with none. The other side has proven a key ([`super::admission`]) and its id by then.

use std::{collections::BTreeSet, fmt, sync::Arc};

use super::{NetworkKeys, admission::AdmissionKeys};
use crate::identity::NodeId;

/// What a token is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Right {
    /// Whoever knows it is a member.
    Anyone,
    /// These are members, others are not: whoever shows up for the first time may be the one that was banned.
    Known(BTreeSet<NodeId>),
    /// It was replaced: these get the token that replaced it, sealed to them, and nothing else.
    Errand(BTreeSet<NodeId>),
}

/// What somebody is who has proven a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// One of us.
    Member,
    /// It gets the new token and is let go.
    Errand,
    /// Nothing more is said.
    Refused,
}

/// The tokens that are good now, most preferred first, and who is banned. Cloning is cheap. `Debug` shows no key.
#[derive(Clone, Default, PartialEq)]
pub struct Gate {
    tokens: Vec<(Arc<NetworkKeys>, Right)>,
    banned: Arc<BTreeSet<NodeId>>,
}

impl Gate {
    /// Everybody with this one token is let in.
    pub fn open(keys: NetworkKeys) -> Self {
        Self::new([(Arc::new(keys), Right::Anyone)], BTreeSet::new())
    }

    /// `tokens` with the most preferred one first; those beyond [`super::admission::MAXIMUM_KEYS`] are left out.
    pub fn new(
        tokens: impl IntoIterator<Item = (Arc<NetworkKeys>, Right)>,
        banned: BTreeSet<NodeId>,
    ) -> Self {
        let tokens = tokens.into_iter().take(super::admission::MAXIMUM_KEYS).collect();
        Self { tokens, banned: Arc::new(banned) }
    }

    /// What proves the tokens, in their order.
    pub fn admission_keys(&self) -> AdmissionKeys {
        AdmissionKeys::several(self.tokens.iter().map(|(keys, _)| &keys.admission))
    }

    /// All tokens, in their order.
    pub fn tokens(&self) -> impl Iterator<Item = &NetworkKeys> {
        self.tokens.iter().map(|(keys, _)| keys.as_ref())
    }

    /// The tokens of members, in their order: those that make sessions of the data plane.
    pub fn member_tokens(&self) -> impl Iterator<Item = &NetworkKeys> {
        let good = self.tokens.iter().filter(|(_, right)| !matches!(right, Right::Errand(_)));
        good.map(|(keys, _)| keys.as_ref())
    }

    /// Whether somebody is turned away whatever it knows.
    pub fn is_banned(&self, peer: &NodeId) -> bool {
        self.banned.contains(peer)
    }

    /// Who is turned away whatever it knows.
    pub fn banned(&self) -> &BTreeSet<NodeId> {
        &self.banned
    }

    /// What `peer` is that has proven the token whose [`NetworkKeys::token_id`] is `token`.
    pub fn judge(&self, peer: &NodeId, token: &[u8; 8]) -> Verdict {
        if self.is_banned(peer) {
            return Verdict::Refused;
        }
        let right = self.tokens.iter().find(|(keys, _)| keys.token_id == *token).map(|(_, right)| right);
        match right {
            Some(Right::Anyone) => Verdict::Member,
            Some(Right::Known(known)) if known.contains(peer) => Verdict::Member,
            Some(Right::Errand(known)) if known.contains(peer) => Verdict::Errand,
            Some(Right::Known(_) | Right::Errand(_)) | None => Verdict::Refused,
        }
    }

    /// Whether a member that was let in with `token` stays. Whoever was given the new token meanwhile does: a rotation
    /// ends no connection between members.
    pub fn keeps(&self, peer: &NodeId, token: &[u8; 8]) -> bool {
        self.judge(peer, token) != Verdict::Refused
    }

    /// The token at `index` of [`Gate::admission_keys`].
    pub fn token_id(&self, index: usize) -> Option<[u8; 8]> {
        self.tokens.get(index).map(|(keys, _)| keys.token_id)
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rights: Vec<_> = self.tokens.iter().map(|(_, right)| right).collect();
        f.debug_struct("Gate").field("rights", &rights).field("banned", &self.banned).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::NetworkToken;

    fn keys(seed: u8) -> Arc<NetworkKeys> {
        Arc::new(NetworkToken::generate(&[seed; 160], Vec::new()).expect("no peers").keys())
    }

    fn id(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    #[test]
    fn a_replaced_token_only_fetches_the_new_one_for_those_who_are_known() {
        let (new, old, other) = (keys(2), keys(1), keys(3).token_id);
        let (new_id, old_id) = (new.token_id, old.token_id);
        let gate = Gate::new(
            [(new, Right::Anyone), (old, Right::Errand([id(1), id(2)].into()))],
            BTreeSet::from([id(2), id(9)]),
        );
        let judged = |n, token| gate.judge(&id(n), &token);
        assert_eq!(judged(5, new_id), Verdict::Member);
        assert_eq!(judged(1, old_id), Verdict::Errand);
        assert_eq!(judged(5, old_id), Verdict::Refused, "nobody knows it");
        assert_eq!(judged(5, other), Verdict::Refused);
        for banned in [2, 9] {
            assert_eq!(judged(banned, new_id), Verdict::Refused);
            assert_eq!(judged(banned, old_id), Verdict::Refused, "known and banned");
        }
        assert!(gate.keeps(&id(1), &old_id), "its connection from before goes on");
        assert!(!gate.keeps(&id(5), &old_id));
        assert_eq!(gate.member_tokens().count(), 1, "no session is made with a replaced token");
    }

    #[test]
    fn a_closed_door_lets_in_those_who_were_there_before() {
        let (old, old_id) = (keys(1), keys(1).token_id);
        let gate = Gate::new([(old, Right::Known([id(1)].into()))], BTreeSet::new());
        assert_eq!(gate.judge(&id(1), &old_id), Verdict::Member);
        assert_eq!(gate.judge(&id(2), &old_id), Verdict::Refused);
    }

    #[test]
    fn it_shows_no_key() {
        let shown = format!("{:?}", Gate::new([(keys(1), Right::Anyone)], BTreeSet::new()));
        assert_eq!(shown, "Gate { rights: [Anyone], banned: {} }");
    }
}
