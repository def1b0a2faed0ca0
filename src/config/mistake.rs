//! What is wrong in a file, where, and what to write instead.

use std::fmt;

/// One thing that is wrong in a file. Its [`Display`](fmt::Display) is for people and editors alike:
///
/// ```text
/// /oem/config.yaml:3:9: error: c3os.role: `wroker` is not a role
///   hint: did you mean `worker`?
/// ```
///
/// It never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// As given in [`Source::path`](super::Source::path).
    pub file: String,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
    /// Dotted path, such as `c3os.vpn.subnet`; empty where the mistake is the whole file's.
    pub key: String,
    /// What `validate`, `install` and CI make of it.
    pub severity: Severity,
    /// What a booting machine makes of it.
    pub at_boot: AtBoot,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// How bad a mistake is to those who can still mend it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Understood, but not what the writer may expect.
    Warning,
    /// `validate` fails.
    Error,
}

/// What a booting machine does about a mistake: it never gives up for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AtBoot {
    /// Goes on as if it were not written.
    Ignored,
    /// That setting stays at its default, or at what an earlier file said.
    Off,
    /// As `Off`, and [`Config::frozen`](super::Config::frozen): the setting decides roles.
    Frozen,
    /// There is no token to be read: stays out of any mesh.
    NoMesh,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

impl fmt::Display for AtBoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ignored => "goes on as if it were not written",
            Self::Off => "goes on without this setting",
            Self::Frozen => {
                "joins the mesh, and takes part in no founding and no new role until this is mended"
            }
            Self::NoMesh => "stays out of the mesh until this is mended",
        })
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}: ", self.file, self.line, self.column, self.severity)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}
