//! Which file each setting comes from: `validate --explain`.

use std::{collections::BTreeMap, fmt};

/// Where a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// As given in [`Source::path`](super::Source::path).
    pub file: String,
    /// From 1.
    pub line: u32,
    /// From 1.
    pub column: u32,
    /// The key as that file spells it, such as `p2p.network_token` for `c3os.network_token`.
    pub written: String,
    /// The value for people; secrets are `***`.
    pub value: String,
    /// `file:line` of an earlier file that said something too.
    pub overrides: Option<String>,
    /// Position of the file among all that were read.
    pub(super) file_index: usize,
}

/// The value of a setting that an empty text unsets.
pub(super) const UNSET: &str = "\"\"";

/// The origin of every setting that some file gives, by its dotted path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins(BTreeMap<String, Origin>);

impl Origins {
    /// Where the setting at `path` (such as `c3os.role`) comes from; none: nobody wrote it.
    pub fn get(&self, path: &str) -> Option<&Origin> {
        self.0.get(path)
    }

    /// Whether some file gives the setting at `path` a value, and no later one takes it away by an empty text.
    pub(super) fn is_set(&self, path: &str) -> bool {
        self.get(path).is_some_and(|origin| origin.value != UNSET)
    }

    /// All of them, by path.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Origin)> {
        self.0.iter().map(|(path, origin)| (path.as_str(), origin))
    }

    /// Gives back what the same file said before in another spelling.
    pub(super) fn insert(&mut self, path: &str, mut origin: Origin) -> Option<Origin> {
        let before = self.0.remove(path);
        let same_file = before.as_ref().is_some_and(|before| before.file == origin.file);
        if !same_file {
            origin.overrides = before.as_ref().map(|before| format!("{}:{}", before.file, before.line));
        }
        let written = origin.written.clone();
        self.0.insert(path.to_owned(), origin);
        before.filter(|before| same_file && before.written != written)
    }

    /// What was read at `from` counts as `to`.
    pub(super) fn rename(&mut self, from: &str, to: &str) {
        if let Some(origin) = self.0.remove(from) {
            self.insert(to, origin);
        }
    }

    /// What was written for the setting at `path` means `value`.
    pub(super) fn show(&mut self, path: &str, value: &str) {
        if let Some(origin) = self.0.get_mut(path) {
            value.clone_into(&mut origin.value);
        }
    }

    pub(super) fn remove(&mut self, path: &str) {
        self.0.remove(path);
    }
}

/// One line per setting: `key: value`, the place, and what it overrides or how it is spelled there.
impl fmt::Display for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (path, origin) in &self.0 {
            let setting = format!("{path}: {}", origin.value);
            write!(f, "{setting:<40} {}:{}", origin.file, origin.line)?;
            if origin.written != *path {
                write!(f, ", written {}", origin.written)?;
            }
            if let Some(overridden) = &origin.overrides {
                write!(f, ", overrides {overridden}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
