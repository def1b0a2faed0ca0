//! The JSON schema, from the declarations in `document`.

use schemars::{
    Schema,
    transform::{RecursiveTransform, Transform},
};
use serde_json::{Value, json};

use super::document::Document;

/// The JSON schema (draft 2020-12) of a cloud-config, for editors and other validators.
pub fn schema() -> Value {
    let mut schema = schemars::schema_for!(Document);
    let mut nullable = RecursiveTransform(nullable_block);
    nullable.transform(&mut schema);
    schema.insert("title".to_owned(), "c3os mesh: cloud-config".into());
    schema.to_value()
}

/// A block may be empty. Said as `anyOf` (block, null), which is what derives give, a validator can only answer that
/// neither fits; said in the type of the block itself, it names the key that is wrong.
fn nullable_block(schema: &mut Schema) {
    let reference = match schema.get("anyOf").and_then(Value::as_array).map(Vec::as_slice) {
        Some([block, _null]) => block.get("$ref").cloned(),
        Some(_) | None => None,
    };
    if let Some(reference) = reference {
        schema.remove("anyOf");
        schema.insert("$ref".to_owned(), reference);
    }
    if schema.get("properties").is_some() {
        schema.insert("type".to_owned(), json!(["object", "null"]));
    }
}

/// [`schema`] as it is committed and printed: indented, keys in order, one newline at the end.
pub fn schema_text() -> String {
    format!("{:#}\n", in_order(schema()))
}

/// Whether a map of `serde_json` is in order depends on the features of the build.
fn in_order(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let sorted: std::collections::BTreeMap<String, Value> = map.into_iter().collect();
            Value::Object(sorted.into_iter().map(|(key, value)| (key, in_order(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(in_order).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}
