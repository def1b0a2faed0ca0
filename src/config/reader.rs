//! From a tree to typed settings: notes every mistake and where each setting comes from, and never gives up.

use super::{
    AtBoot, Mistake, Origin, Origins, Severity,
    block::{Refusal, Setting},
    document::Document,
    suggest::{closest, shown, very_close},
    tree::{Entry, Node, Place, Value},
};

/// More mistakes than anybody mends in one go; the rest is only counted.
const MISTAKES: usize = 100;

/// Settings that a founding or an assignment freezes for good. A machine that got one of them wrong decides nothing.
const DECIDING: [&str; 11] = [
    "c3os.network_id",
    "c3os.role",
    "c3os.minimum_nodes",
    "c3os.join",
    "c3os.auto",
    "c3os.vpn.create",
    "c3os.vpn.use",
    "c3os.vpn.subnet",
    "c3os.vpn.address",
    "k3s",
    "k3s-agent",
];

/// Reads files one after the other; owns what was found.
#[derive(Default)]
pub(super) struct Reader {
    file: String,
    file_index: usize,
    path: String,
    /// How the file at hand writes the setting at `path`, where that is an older spelling.
    spelled: Option<String>,
    mistakes: Vec<(usize, Mistake)>,
    suppressed: usize,
    frozen: bool,
    pub(super) origins: Origins,
}

impl Reader {
    pub(super) fn open(&mut self, index: usize, file: &str) {
        self.file_index = index;
        self.file = file.to_owned();
    }

    /// Everything found, in the order of files, lines and columns.
    pub(super) fn into_findings(mut self) -> (Vec<Mistake>, Origins) {
        self.mistakes.sort_by_key(|(file, mistake)| (*file, mistake.line, mistake.column));
        if let (Some((file, last)), 1..) = (self.mistakes.last(), self.suppressed) {
            let message = format!("{} more mistakes are not shown", self.suppressed);
            let more =
                Mistake { key: String::new(), at_boot: AtBoot::Ignored, message, hint: None, ..last.clone() };
            self.mistakes.push((*file, more));
        }
        (self.mistakes.into_iter().map(|(_, mistake)| mistake).collect(), self.origins)
    }

    pub(super) fn mistakes(&self) -> impl Iterator<Item = &Mistake> {
        self.mistakes.iter().map(|(_, mistake)| mistake)
    }

    /// A setting that decides roles was not understood.
    pub(super) fn frozen(&self) -> bool {
        self.frozen
    }

    /// Reads something one key further down.
    pub(super) fn key<T>(&mut self, key: &str, read: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        // A key that is as long as a token may be one.
        if key.chars().count() <= 40 {
            self.path.push_str(key);
        } else {
            self.path.push_str("(long key)");
        }
        let result = read(self);
        self.path.truncate(length);
        result
    }

    pub(super) fn item<T>(&mut self, index: usize, read: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        self.path.push_str(&format!("[{index}]"));
        let result = read(self);
        self.path.truncate(length);
        result
    }

    /// Reads something as the setting at `path`, which the file writes as `spelled`.
    pub(super) fn spelled<T>(&mut self, path: &str, spelled: &str, read: impl FnOnce(&mut Self) -> T) -> T {
        let before =
            (std::mem::replace(&mut self.path, path.to_owned()), self.spelled.replace(spelled.to_owned()));
        let result = read(self);
        (self.path, self.spelled) = before;
        result
    }

    /// Remembers that the setting at the current path comes from here.
    pub(super) fn note(&mut self, place: Place, value: &str) {
        let origin = Origin {
            file: self.file.clone(),
            line: place.line,
            column: place.column,
            written: self.written(),
            value: if value.chars().count() > 60 { "(long)".to_owned() } else { value.to_owned() },
            overrides: None,
            file_index: self.file_index,
        };
        if let Some(twice) = self.origins.insert(&self.path, origin) {
            self.report(
                place,
                Severity::Warning,
                AtBoot::Ignored,
                format!("this counts, and not {} of line {}", twice.written, twice.line),
                Some("keep one of the two".to_owned()),
            );
        }
    }

    /// Where the value noted at `path` stands.
    pub(super) fn place_of(&self, path: &str) -> Place {
        let place = |origin: &Origin| Place { line: origin.line, column: origin.column };
        self.origins.get(path).map_or(Place::START, place)
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Goes to where the setting at `path` was read, to say something about it; nothing happens if nobody wrote it.
    pub(super) fn revisit(&mut self, path: &str, say: impl FnOnce(&mut Self, Place)) -> bool {
        let Some(origin) = self.origins.get(path).filter(|_| self.origins.is_set(path)) else { return false };
        let (place, written) = (Place { line: origin.line, column: origin.column }, origin.written.clone());
        (self.file_index, self.file) = (origin.file_index, origin.file.clone());
        self.spelled(path, &written, |reader| say(reader, place));
        true
    }

    fn written(&self) -> String {
        self.spelled.clone().unwrap_or_else(|| self.path.clone())
    }

    /// An error in the setting at the current path.
    pub(super) fn error(&mut self, place: Place, message: impl Into<String>, hint: Option<String>) {
        let at_boot = if self.decides() { AtBoot::Frozen } else { AtBoot::Off };
        self.report(place, Severity::Error, at_boot, message.into(), hint);
    }

    /// Something in the setting at the current path that its writer should know.
    pub(super) fn warning(&mut self, place: Place, message: impl Into<String>, hint: Option<String>) {
        self.report(place, Severity::Warning, AtBoot::Ignored, message.into(), hint);
    }

    pub(super) fn refuse(&mut self, place: Place, refusal: Refusal) {
        self.error(place, refusal.message, refusal.hint);
    }

    fn decides(&self) -> bool {
        let path = match self.path.strip_prefix("p2p.") {
            Some(rest) => format!("c3os.{rest}"),
            None => self.path.clone(),
        };
        DECIDING.iter().any(|deciding| {
            path.strip_prefix(deciding).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    }

    pub(super) fn report(
        &mut self,
        place: Place,
        severity: Severity,
        at_boot: AtBoot,
        message: String,
        hint: Option<String>,
    ) {
        self.frozen |= at_boot == AtBoot::Frozen;
        if self.is_full() {
            self.suppressed += 1;
            return;
        }
        let key = self.written();
        let (file, line, column) = (self.file.clone(), place.line, place.column);
        let mistake = Mistake { file, line, column, key, severity, at_boot, message, hint };
        self.mistakes.push((self.file_index, mistake));
    }

    fn is_full(&self) -> bool {
        self.mistakes.len() >= MISTAKES
    }

    /// The text of a scalar; none where nothing is written, or something else.
    pub(super) fn text<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n str> {
        match &node.value {
            Value::Scalar(text) => Some(text),
            Value::Null => None,
            Value::List(_) | Value::Map(_) => {
                self.wrong_type(node, what, "one value, on the line of its key");
                None
            }
        }
    }

    /// The entries of a map, keys that come twice noted; none where nothing is written, or something else.
    pub(super) fn map<'n>(&mut self, node: &'n Node) -> &'n [Entry] {
        match &node.value {
            Value::Map(entries) => {
                self.look_for_twins(entries);
                entries
            }
            Value::Null => &[],
            Value::Scalar(_) | Value::List(_) => {
                self.wrong_type(node, "a map", "indented lines of `key: value`");
                &[]
            }
        }
    }

    /// Notes keys that stand twice in a map.
    pub(super) fn look_for_twins(&mut self, entries: &[Entry]) {
        let mut seen = std::collections::BTreeMap::new();
        for entry in entries {
            if let Some(first) = seen.insert(&entry.key, entry.place.line) {
                self.key(&entry.key, |reader| {
                    let at_boot = if reader.decides() { AtBoot::Frozen } else { AtBoot::Ignored };
                    let message = format!("written twice: first in line {first}");
                    let hint = Some("keep one; a booting machine reads both, and the last counts".to_owned());
                    reader.report(entry.place, Severity::Error, at_boot, message, hint);
                });
            }
        }
    }

    pub(super) fn wrong_type(&mut self, node: &Node, expected: &str, hint: &str) {
        let found = match &node.value {
            Value::Null => "nothing",
            Value::Scalar(_) => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        };
        let message = format!("expected {expected}, found {found}");
        let token = self.path.ends_with(".network_token");
        let at_boot = match (token, self.decides()) {
            (true, _) => AtBoot::NoMesh,
            (false, true) => AtBoot::Frozen,
            (false, false) => AtBoot::Off,
        };
        self.report(node.place, Severity::Error, at_boot, message, Some(hint.to_owned()));
    }

    /// Notes a key that none of ours is. `open`: the block is shared with other programs, so only slips of ours count.
    pub(super) fn unknown(&mut self, entry: &Entry, keys: &[&str], open: bool) {
        if self.is_full() {
            self.suppressed += 1;
            return;
        }
        let keys_here = keys.iter().copied();
        let hint = if open {
            let Some(better) = very_close(&entry.key, keys_here) else { return };
            format!("did you mean `{better}`?")
        } else if let Some(path) = elsewhere(&entry.key) {
            format!("did you mean `{path}`?")
        } else if let Some(better) = closest(&entry.key, keys_here) {
            format!("did you mean `{better}`?")
        } else {
            format!("known here: {}", keys.join(", "))
        };
        let message = format!("unknown key {}", shown(&entry.key));
        self.report(entry.place, Severity::Error, AtBoot::Ignored, message, Some(hint));
    }
}

/// The path of a setting of another block that has this very key.
fn elsewhere(key: &str) -> Option<String> {
    let mut paths = Vec::new();
    Document::paths("", &mut paths);
    let path = paths.iter().find(|path| {
        !path.starts_with(".p2p") && path.rsplit_once('.').is_some_and(|(_, last)| last == key)
    })?;
    Some(path.trim_start_matches('.').to_owned())
}
