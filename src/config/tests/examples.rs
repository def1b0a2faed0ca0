//! The examples that users start from, and the schema that their editors use.

use super::super::{
    RoleSetting, block::Setting, create_config, document::Document, parse, schema, schema_text,
};
use super::{files, in_repository, one, printed};
use crate::config::Source;

#[test]
fn every_example_is_free_of_mistakes() {
    let examples = files("cloud-config-schema", ".yaml");
    assert!(examples.len() >= 8, "{} examples", examples.len());
    for (path, text) in examples {
        let text = String::from_utf8(text).unwrap();
        assert!(
            text.contains("# yaml-language-server: $schema=./c3os.schema.json\n"),
            "{path} tells an editor about the schema"
        );
        let parsed = parse(&[Source { path, text: text.into_bytes() }], "");
        assert_eq!(printed(&parsed), "");
        assert!(!parsed.config.frozen);
        assert!(parsed.config.network_token.is_some() || parsed.token_file.is_some());
    }
}

#[test]
fn the_committed_schema_is_the_one_of_the_types() {
    let path = "cloud-config-schema/c3os.schema.json";
    let committed = std::fs::read_to_string(in_repository(path)).unwrap_or_default();
    assert!(
        committed == schema_text(),
        "{path} is not what the types say. Run: cargo run -- schema > {path}, and look at the difference"
    );
}

#[test]
fn every_setting_is_described_in_the_schema() {
    let schema = schema();
    let mut paths = Vec::new();
    Document::paths("", &mut paths);
    assert!(paths.len() > 60);
    for path in paths {
        let mut at = &schema;
        for key in path.trim_start_matches('.').split('.') {
            at = &at["properties"][key];
            assert!(at["description"].as_str().is_some_and(|text| text.len() > 10), "{path}");
            if let Some(block) = at["$ref"].as_str() {
                at = &schema["$defs"][block.rsplit('/').next().unwrap()];
            }
        }
    }
}

#[test]
fn the_schema_leaves_the_keys_of_others_alone_and_knows_all_of_ours() {
    let schema = schema();
    assert_eq!(schema["additionalProperties"], serde_json::Value::Null);
    assert_eq!(schema["$defs"]["C3os"]["additionalProperties"], false);
    assert_eq!(schema["$defs"]["Install"]["additionalProperties"], serde_json::Value::Null);
}

#[test]
fn a_created_configuration_is_the_originals_and_parses() {
    assert_eq!(create_config("dG9rZW4=", None, None), "c3os:\n  network_token: dG9rZW4=\n");
    for (nodes, minimum) in [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (199, 100), (1000, 100), (u16::MAX, 100)]
    {
        let parsed = one(&create_config("dG9rZW4=", Some(nodes), Some("abc")));
        assert_eq!(printed(&parsed), "");
        assert_eq!(parsed.config.minimum_nodes, Some(minimum));
        assert_eq!(parsed.config.join.as_deref(), Some("abc"));
        assert_eq!(parsed.config.network_token.unwrap().reveal(), "dG9rZW4=");
        assert_eq!(parsed.config.role, RoleSetting::Auto);
    }
}
