//! YAML text to a tree in which every node knows its line and column.
//!
//! A broken text gives the tree of what comes before the break. Whatever the text, time and memory are bounded:
//! aliases share the node they name, depth and number of nodes are limited, and nothing here recurses.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, Span};

/// Deeper nesting is refused. Our own blocks need five levels.
const DEPTH: usize = 64;
/// More nodes are refused; a file of 1 MB that people wrote has far fewer.
const NODES: usize = 200_000;

const MANY: &str = "the file has more than 200000 values";
const TOO_DEEP: &str = "nothing of a configuration is nested that deep";

/// Where something is written, both from 1; columns are characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) line: u32,
    pub(super) column: u32,
}

impl Place {
    pub(super) const START: Self = Self { line: 1, column: 1 };
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
    /// Levels of nodes from here down, itself included.
    height: usize,
}

#[derive(Debug)]
pub(super) enum Value {
    Null,
    Scalar(String),
    List(Vec<Rc<Node>>),
    Map(Vec<Entry>),
}

/// A key may come twice: that is for the reader to say.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) value: Rc<Node>,
}

/// Why a text could not be read to its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Broken {
    pub(super) place: Place,
    pub(super) message: String,
    pub(super) hint: &'static str,
}

#[derive(Debug)]
pub(super) struct Tree {
    /// The first document, up to where it is broken.
    pub(super) root: Option<Rc<Node>>,
    pub(super) broken: Option<Broken>,
    /// Where a second document starts. Nothing of it is read.
    pub(super) second: Option<Place>,
}

impl Node {
    pub(super) fn scalar(place: Place, text: String) -> Self {
        Self { place, value: Value::Scalar(text), height: 1 }
    }

    pub(super) fn list(place: Place, items: Vec<Rc<Self>>) -> Self {
        let height = 1 + items.iter().map(|item| item.height).max().unwrap_or(0);
        Self { place, value: Value::List(items), height }
    }

    pub(super) fn map(place: Place, entries: Vec<Entry>) -> Self {
        let height = 1 + entries.iter().map(|entry| entry.value.height).max().unwrap_or(0);
        Self { place, value: Value::Map(entries), height }
    }

    /// A map of one key, at the place of its value.
    pub(super) fn map_of(key: &str, value: Rc<Self>) -> Self {
        Self::map(value.place, vec![Entry { key: key.to_owned(), place: value.place, value }])
    }

    /// The items of a list; none for anything else.
    pub(super) fn items(&self) -> &[Rc<Self>] {
        match &self.value {
            Value::List(items) => items,
            Value::Null | Value::Scalar(_) | Value::Map(_) => &[],
        }
    }

    /// The entries of a map; none for anything else.
    pub(super) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            Value::Null | Value::Scalar(_) | Value::List(_) => &[],
        }
    }
}

pub(super) fn parse(text: &str) -> Tree {
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: DEPTH,
        block_nesting_limit: DEPTH,
    };
    let mut builder = Builder::default();
    let mut broken = None;
    for next in Parser::new_from_str_with_options(text, options) {
        let taken = match next {
            Ok((event, span)) => builder.take(event, &span),
            Err(error) => Err(explain(&error)),
        };
        match taken {
            Ok(Progress::More) => {}
            Ok(Progress::Done) => break,
            Err(_) if builder.ended => {
                builder.second_has_content = true;
                break;
            }
            Err(error) => {
                broken = Some(error);
                break;
            }
        }
    }
    let second = builder.second.filter(|_| builder.second_has_content);
    Tree { root: builder.finish(), broken, second }
}

enum Progress {
    More,
    Done,
}

#[derive(Default)]
struct Builder {
    open: Vec<Frame>,
    anchors: BTreeMap<usize, Rc<Node>>,
    root: Option<Rc<Node>>,
    nodes: usize,
    /// The first document has ended.
    ended: bool,
    second: Option<Place>,
    second_has_content: bool,
}

/// A list or map whose end has not come yet.
struct Frame {
    place: Place,
    anchor: usize,
    is_map: bool,
    /// Of a map: key, value, key, value...
    items: Vec<Rc<Node>>,
}

impl Builder {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "a foreign enum; its other events are about presentation"
    )]
    fn take(&mut self, event: Event<'_>, span: &Span) -> Result<Progress, Broken> {
        let place = place(&span.start);
        if self.ended {
            return Ok(match event {
                Event::DocumentStart(..) => {
                    self.second = Some(place);
                    Progress::More
                }
                Event::Scalar(text, style, ..) if is_null(&text, style) => Progress::More,
                Event::Scalar(..) | Event::SequenceStart(..) | Event::MappingStart(..) => {
                    self.second_has_content = true;
                    Progress::Done
                }
                _ => Progress::More,
            });
        }
        match event {
            Event::DocumentEnd => self.ended = true,
            Event::Scalar(text, style, anchor, _) => {
                let value =
                    if is_null(&text, style) { Value::Null } else { Value::Scalar(text.into_owned()) };
                self.add(Rc::new(Node { place, value, height: 1 }), anchor)?;
            }
            Event::SequenceStart(_, anchor, _) => {
                self.open.push(Frame { place, anchor, is_map: false, items: Vec::new() });
            }
            Event::MappingStart(_, anchor, _) => {
                self.open.push(Frame { place, anchor, is_map: true, items: Vec::new() });
            }
            Event::SequenceEnd | Event::MappingEnd => self.close()?,
            Event::Alias(id) => match self.anchors.get(&id) {
                Some(node) => self.add(Rc::clone(node), 0)?,
                None => {
                    return Err(refused(
                        place,
                        "this alias stands inside the very thing it names",
                        "write the value out",
                    ));
                }
            },
            _ => {}
        }
        Ok(Progress::More)
    }

    fn add(&mut self, node: Rc<Node>, anchor: usize) -> Result<(), Broken> {
        self.count(1, node.place)?;
        if self.open.len() + node.height > DEPTH {
            return Err(refused(node.place, "nested more than 64 levels deep", TOO_DEEP));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        match self.open.last_mut() {
            Some(frame) => frame.items.push(node),
            None => self.root = Some(node),
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), Broken> {
        let Some(frame) = self.open.pop() else { return Ok(()) };
        let node = if frame.is_map {
            Node::map(frame.place, self.pair_up(frame.items)?)
        } else {
            Node::list(frame.place, frame.items)
        };
        self.add(Rc::new(node), frame.anchor)
    }

    /// `key, value, key, value` to entries, then what merge keys (`<<`) bring and the map itself does not have.
    fn pair_up(&mut self, items: Vec<Rc<Node>>) -> Result<Vec<Entry>, Broken> {
        let mut entries = Vec::with_capacity(items.len() / 2);
        let mut merged = Vec::new();
        let mut items = items.into_iter();
        while let (Some(key), Some(value)) = (items.next(), items.next()) {
            let text = match &key.value {
                Value::Scalar(text) => text.clone(),
                Value::Null => String::new(),
                Value::List(_) => "a list".to_owned(),
                Value::Map(_) => "a map".to_owned(),
            };
            if text != "<<" {
                entries.push(Entry { key: text, place: key.place, value });
                continue;
            }
            let maps = match &value.value {
                Value::List(maps) => maps.as_slice(),
                Value::Map(_) | Value::Scalar(_) | Value::Null => std::slice::from_ref(&value),
            };
            for map in maps {
                self.count(map.entries().len(), key.place)?;
                merged.extend_from_slice(map.entries());
            }
        }
        let mut have: BTreeSet<String> = entries.iter().map(|entry| entry.key.clone()).collect();
        entries.extend(merged.into_iter().filter(|entry| have.insert(entry.key.clone())));
        Ok(entries)
    }

    fn count(&mut self, more: usize, place: Place) -> Result<(), Broken> {
        self.nodes += more;
        if self.nodes > NODES {
            return Err(refused(place, MANY, "each use of an alias or merge key counts again"));
        }
        Ok(())
    }

    fn finish(mut self) -> Option<Rc<Node>> {
        // Only a break leaves something open. It is closed under a fresh limit; a part beyond that one too is dropped.
        self.nodes = 0;
        while !self.open.is_empty() {
            let _ = self.close();
        }
        self.root
    }
}

fn refused(place: Place, message: &str, hint: &'static str) -> Broken {
    Broken { place, message: message.to_owned(), hint }
}

fn place(mark: &granit_parser::Marker) -> Place {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Place { line: number(mark.line()).max(1), column: number(mark.col()).saturating_add(1) }
}

/// YAML 1.2's core schema, 10.3.2.
fn is_null(text: &str, style: ScalarStyle) -> bool {
    style == ScalarStyle::Plain && matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum; only some of it has a better hint")]
fn explain(error: &ScanError) -> Broken {
    let hint = match error.kind() {
        ErrorKind::TabNotAllowed
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabInIndentation
        | ErrorKind::TabAtBlockScalarStart => "indent with spaces: YAML allows no tabs there",
        ErrorKind::UnclosedQuotedScalar | ErrorKind::DocumentIndicatorInQuotedScalar => {
            "the quote that opens here has no end"
        }
        ErrorKind::InvalidTrailingSingleQuotedScalar | ErrorKind::InvalidTrailingDoubleQuotedScalar => {
            "nothing but a comment may follow the closing quote on its line"
        }
        ErrorKind::UnknownQuotedScalarEscape => {
            "in double quotes a backslash starts an escape: use single quotes for a plain backslash"
        }
        ErrorKind::UnknownAnchor => "an alias (`*name`) needs its anchor (`&name`) earlier in the same file",
        ErrorKind::RecursionLimitExceeded => TOO_DEEP,
        ErrorKind::UnclosedFlowCollection { .. }
        | ErrorKind::UnexpectedEofFlowMapping
        | ErrorKind::UnexpectedEofFlowSequence
        | ErrorKind::UnexpectedEofImplicitFlowMapping => "a bracket that was opened has no end",
        _ => "check the indentation, the colons and the quotes here and on the line above",
    };
    Broken { place: place(error.marker()), message: format!("not YAML: {}", error.info()), hint }
}
