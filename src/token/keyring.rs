//! The tokens that a machine holds while one replaces another.
//!
//! ```text
//!            hold(n)                  take(n)
//!  current ---------> current, next ----------> current = next; the old one is among the replaced
//! ```
//! Whether it is time for either is a fact of the cluster (`node::rotation`), no matter of a clock. Replaced tokens
//! stay for [`DAYS`] by the wall clock, for machines that were off meanwhile; skewed clocks do no harm there.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{NetworkKeys, NetworkToken, TokenError};

/// For so long a replaced token fetches the new one.
const DAYS: u64 = 90;
/// Replaced tokens that are kept; beside the current and the next one they are all that admission takes.
const REPLACED: usize = 2;

/// The tokens of one machine. It has no `Debug`.
#[derive(Clone)]
pub struct Keyring {
    /// The rotation that brought the current token; 0: the first token.
    number: u32,
    current: Held,
    next: Option<(u32, Held)>,
    /// The latest first.
    replaced: Vec<Replaced>,
}

/// A token, and its keys, derived once.
#[derive(Clone)]
struct Held {
    token: NetworkToken,
    keys: Arc<NetworkKeys>,
}

#[derive(Clone)]
struct Replaced {
    held: Held,
    /// Day since 1970 (UTC) on which it was replaced, as far as this machine knew the date.
    day: u64,
}

impl Held {
    fn new(token: NetworkToken) -> Self {
        Self { keys: Arc::new(token.keys()), token }
    }

    fn is(&self, token: &NetworkToken) -> bool {
        *self.keys == token.keys()
    }
}

/// A [`Keyring`] as it is kept on disk: tokens in plain text.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptTokens {
    number: u32,
    current: Zeroizing<String>,
    next: Option<(u32, Zeroizing<String>)>,
    replaced: Vec<(u64, Zeroizing<String>)>,
}

/// It prints nothing of itself.
impl fmt::Debug for KeptTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeptTokens(***)")
    }
}

impl Keyring {
    /// The one token of a configuration.
    pub fn new(token: NetworkToken) -> Self {
        Self { number: 0, current: Held::new(token), next: None, replaced: Vec::new() }
    }

    /// What a machine starts with: `configured` is the token of its files, `kept` what it kept of rotations. Files that
    /// still name a token that was replaced are behind; a token that was never heard of is an operator's new one.
    ///
    /// # Errors
    /// [`TokenError`] if what was kept is no token any more.
    pub fn resume(configured: NetworkToken, kept: &KeptTokens) -> Result<Self, TokenError> {
        let held = |text: &str| NetworkToken::parse(text).map(Held::new);
        let next = match &kept.next {
            Some((number, text)) => Some((*number, held(text)?)),
            None => None,
        };
        let replaced = kept
            .replaced
            .iter()
            .map(|(day, text)| Ok(Replaced { held: held(text)?, day: *day }))
            .collect::<Result<_, TokenError>>()?;
        let mut ring = Self { number: kept.number, current: held(&kept.current)?, next, replaced };
        if ring.next.as_ref().is_some_and(|(_, next)| next.is(&configured)) {
            ring.take(0);
        }
        let ours = ring.current.is(&configured) || ring.is_replaced(&configured);
        Ok(if ours { ring } else { Self::new(configured) })
    }

    /// As it goes to disk.
    pub fn to_kept(&self) -> KeptTokens {
        KeptTokens {
            number: self.number,
            current: self.current.token.encode(),
            next: self.next.as_ref().map(|(number, held)| (*number, held.token.encode())),
            replaced: self.replaced.iter().map(|one| (one.day, one.held.token.encode())).collect(),
        }
    }

    /// The rotation that brought the current token; 0: the first token.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The token in use.
    pub fn current(&self) -> &NetworkToken {
        &self.current.token
    }

    /// The keys of the token in use.
    pub fn current_keys(&self) -> &Arc<NetworkKeys> {
        &self.current.keys
    }

    /// The rotation whose token is held and not in use yet, and its keys.
    pub fn next(&self) -> Option<(u32, &Arc<NetworkKeys>)> {
        self.next.as_ref().map(|(number, held)| (*number, &held.keys))
    }

    /// The keys of the tokens that were in use, the latest first.
    pub fn replaced_keys(&self) -> impl Iterator<Item = &Arc<NetworkKeys>> {
        self.replaced.iter().map(|replaced| &replaced.held.keys)
    }

    /// Whether a text, as somebody wrote it, is a token that was replaced.
    pub fn has_replaced(&self, text: &str) -> bool {
        NetworkToken::parse(text).is_ok_and(|token| self.is_replaced(&token))
    }

    fn is_replaced(&self, token: &NetworkToken) -> bool {
        self.replaced.iter().any(|replaced| replaced.held.is(token))
    }

    /// Holds the token of rotation `number` beside the current one. One that was held for an unfinished rotation before
    /// may be in use elsewhere already, so it is kept.
    pub fn hold(&mut self, number: u32, token: NetworkToken, day: u64) {
        if let Some((_, superseded)) = self.next.replace((number, Held::new(token))) {
            self.keep(superseded, day);
        }
    }

    /// Puts the next token in the place of the current one.
    pub fn take(&mut self, day: u64) {
        let Some((number, token)) = self.next.take() else { return };
        let old = std::mem::replace(&mut self.current, token);
        self.number = number;
        self.keep(old, day);
    }

    /// Forgets tokens that were replaced [`DAYS`] ago; whether that changed anything. One whose day was not known begins
    /// now.
    pub fn expire(&mut self, day: u64) -> bool {
        let before = self.replaced.len();
        let mut dated = false;
        for replaced in &mut self.replaced {
            if replaced.day == 0 && day > 0 {
                replaced.day = day;
                dated = true;
            }
        }
        self.replaced.retain(|replaced| day <= replaced.day.saturating_add(DAYS));
        dated || before != self.replaced.len()
    }

    fn keep(&mut self, held: Held, day: u64) {
        self.replaced.insert(0, Replaced { held, day });
        self.replaced.truncate(REPLACED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first() -> NetworkToken {
        NetworkToken::generate(&[1; 160], Vec::new()).expect("no peers")
    }

    fn rotated() -> (Keyring, NetworkToken, NetworkToken) {
        let (one, two) = (first(), first().successor(&[2; 32]));
        let mut ring = Keyring::new(one.clone());
        ring.hold(1, two.clone(), 20_000);
        ring.take(20_000);
        (ring, one, two)
    }

    #[test]
    fn a_file_that_is_behind_does_not_bring_a_replaced_token_back() {
        let (ring, one, two) = rotated();
        for configured in [&one, &two] {
            let again = Keyring::resume(configured.clone(), &ring.to_kept()).expect("tokens");
            assert!(again.current.is(&two));
            assert_eq!(again.number(), 1);
            assert_eq!(again.replaced.len(), 1);
        }
        assert!(ring.has_replaced(&one.encode()) && !ring.has_replaced(&two.encode()));
    }

    #[test]
    fn an_operators_own_new_token_wins_over_what_was_kept() {
        let (ring, ..) = rotated();
        let other = NetworkToken::generate(&[9; 160], Vec::new()).expect("no peers");
        let again = Keyring::resume(other.clone(), &ring.to_kept()).expect("tokens");
        assert!(again.current.is(&other));
        assert_eq!((again.number(), again.replaced.len()), (0, 0));
    }

    #[test]
    fn a_rotation_that_was_interrupted_goes_on_where_it_was() {
        let mut ring = Keyring::new(first());
        ring.hold(1, first().successor(&[2; 32]), 20_000);
        let again = Keyring::resume(first(), &ring.to_kept()).expect("tokens");
        assert!(again.current.is(&first()));
        assert_eq!(again.next().map(|(number, _)| number), Some(1));
    }

    #[test]
    fn a_token_stays_good_for_fetching_for_ninety_days_and_no_longer() {
        let (mut ring, ..) = rotated();
        assert!(!ring.expire(20_090));
        assert_eq!(ring.replaced.len(), 1);
        assert!(ring.expire(20_091));
        assert_eq!(ring.replaced.len(), 0);
    }

    #[test]
    fn a_machine_without_a_clock_begins_to_count_when_it_has_one() {
        let mut ring = Keyring::new(first());
        ring.hold(1, first().successor(&[2; 32]), 0);
        ring.take(0);
        assert!(ring.expire(20_000), "dated");
        assert!(!ring.expire(20_001));
        assert_eq!(ring.replaced.len(), 1);
    }

    #[test]
    fn a_token_superseded_while_it_was_spread_is_kept() {
        let mut ring = Keyring::new(first());
        let (two, three) = (first().successor(&[2; 32]), first().successor(&[3; 32]));
        ring.hold(1, two.clone(), 20_000);
        ring.hold(2, three.clone(), 20_000);
        assert!(ring.is_replaced(&two));
        ring.take(20_000);
        assert!(ring.current.is(&three));
        assert_eq!(ring.replaced.len(), 2);
    }
}
