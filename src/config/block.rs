//! What a setting is: something that is read from a tree, and declared once for parser and schema.

use super::{
    origin::UNSET,
    reader::Reader,
    tree::{Node, Value},
};

/// A setting that can be read from a tree.
pub(super) trait Setting: Sized {
    /// Reads `node` over what earlier files said: maps merge, anything else replaces. What is wrong is noted in
    /// `reader`, and `slot` stays as it was.
    fn read(slot: &mut Option<Self>, node: &Node, reader: &mut Reader);

    /// Adds the dotted path of every setting from here down.
    fn paths(prefix: &str, paths: &mut Vec<String>) {
        paths.push(prefix.to_owned());
    }
}

/// A setting that is written as one word or text.
pub(super) trait Text: Sized {
    /// As in "expected {WHAT}".
    const WHAT: &'static str;
    /// Never shown, not even by `validate --explain`.
    const SECRET: bool = false;

    /// Takes a text that is not empty and has no space around it.
    fn parse(text: &str) -> Result<Self, Refusal>;
}

/// Why a text is no such setting.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl Refusal {
    pub(super) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: Some(hint.into()) }
    }
}

/// An empty text unsets, as it did for the original.
impl<T: Text> Setting for T {
    fn read(slot: &mut Option<Self>, node: &Node, reader: &mut Reader) {
        let Some(text) = reader.text(node, T::WHAT) else { return };
        let text = text.trim();
        if text.is_empty() {
            *slot = None;
            reader.note(node.place, UNSET);
            return;
        }
        match T::parse(text) {
            Ok(value) => {
                *slot = Some(value);
                reader.note(node.place, if T::SECRET { "***" } else { text });
            }
            Err(refusal) => reader.refuse(node.place, refusal),
        }
    }
}

impl<T: Text> Setting for Vec<T> {
    fn read(slot: &mut Option<Self>, node: &Node, reader: &mut Reader) {
        let items = match &node.value {
            Value::Null => return,
            Value::List(items) => items,
            Value::Scalar(_) | Value::Map(_) => {
                return reader.wrong_type(node, "a list", "one line per item: `- ` and the item");
            }
        };
        let mut values = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            reader.item(index, |reader| {
                let mut value = None;
                let Some(text) = reader.text(item, T::WHAT) else { return };
                match T::parse(text) {
                    Ok(parsed) => value = Some(parsed),
                    Err(refusal) => reader.refuse(item.place, refusal),
                }
                values.extend(value);
            });
        }
        reader.note(node.place, &format!("[{} items]", values.len()));
        *slot = Some(values);
    }
}

/// Declares the settings of one map once: the type, its JSON schema (by its doc comments), and how it is read.
///
/// `closed`: an unknown key is a mistake. `open`: the map is shared with other programs, so only slips of ours are.
macro_rules! block {
    ($(#[$about:meta])* closed $name:ident { $($settings:tt)* }) => {
        block!(@declare false [$(#[$about])* #[schemars(deny_unknown_fields)]] $name { $($settings)* });
    };
    ($(#[$about:meta])* open $name:ident { $($settings:tt)* }) => {
        block!(@declare true [$(#[$about])*] $name { $($settings)* });
    };
    (
        @declare $open:literal [$($about:tt)*]
        $name:ident { $( $(#[$doc:meta])* $key:literal $field:ident: $kind:ty, )* }
    ) => {
        #[derive(Debug, Clone, Default, schemars::JsonSchema)]
        $($about)*
        pub(super) struct $name {
            $( $(#[$doc])* #[schemars(rename = $key)] pub(super) $field: Option<$kind>, )*
        }

        impl $name {
            const KEYS: &'static [&'static str] = &[$($key),*];
        }

        impl $crate::config::block::Setting for $name {
            fn read(
                slot: &mut Option<Self>,
                node: &$crate::config::tree::Node,
                reader: &mut $crate::config::reader::Reader,
            ) {
                let block = slot.get_or_insert_with(Self::default);
                for entry in reader.map(node) {
                    reader.key(&entry.key, |reader| match entry.key.as_str() {
                        $( $key => $crate::config::block::Setting::read(&mut block.$field, &entry.value, reader), )*
                        _ => reader.unknown(entry, Self::KEYS, $open),
                    });
                }
            }

            fn paths(prefix: &str, paths: &mut Vec<String>) {
                $( <$kind as $crate::config::block::Setting>::paths(&format!("{prefix}.{}", $key), paths); )*
            }
        }
    };
}

pub(super) use block;
