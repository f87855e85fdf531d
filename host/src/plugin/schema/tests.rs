use proptest::prelude::*;
use serde_json::json;

use super::*;

fn of(schema: Value, value: Value) -> String {
    faults(&schema, &value, true).join("; ")
}

fn of_one(rule: Value, value: Value) -> String {
    of(json!({"properties": {"a": rule}}), json!({"a": value}))
}

#[test]
fn types_and_lists_of_types() {
    assert_eq!(of_one(json!({"type": "string"}), json!(5)), "`a` is a number, not string");
    let several = json!({"type": ["string", "null"]});
    assert_eq!(of_one(several.clone(), json!(null)), "");
    assert_eq!(of_one(several, json!([])), "`a` is a list, not string or null");
    assert_eq!(of_one(json!({"type": "integer"}), json!(2.5)), "`a` is a number, not integer");
    assert_eq!(of_one(json!({"type": "integer"}), json!(2.0)), "");
    assert_eq!(of_one(json!({"type": "number"}), json!("2")), "`a` is a string, not number");
}

#[test]
fn ranges_in_both_drafts() {
    let between = json!({"minimum": 1, "maximum": 3});
    assert_eq!(of_one(between.clone(), json!(0)), "`a` is 0, less than 1");
    assert_eq!(of_one(between.clone(), json!(3.5)), "`a` is 3.5, more than 3");
    assert_eq!(of_one(between, json!(3)), "");
    assert_eq!(of_one(json!({"exclusiveMinimum": 0}), json!(0)), "`a` is 0, not more than 0");
    assert_eq!(of_one(json!({"exclusiveMaximum": 1}), json!(1)), "`a` is 1, not less than 1");
    let old = json!({"minimum": 0, "exclusiveMinimum": true});
    assert_eq!(of_one(old.clone(), json!(0)), "`a` is 0, not more than 0");
    assert_eq!(of_one(old, json!(0.1)), "");
    assert_eq!(of_one(json!({"multipleOf": 0.1}), json!(0.3)), "");
    assert_eq!(of_one(json!({"multipleOf": 2}), json!(3)), "`a` is 3, no multiple of 2");
}

#[test]
fn texts_lengths_and_patterns() {
    let rule = json!({"minLength": 2, "maxLength": 3, "pattern": "^[a-zé]+$"});
    assert_eq!(of_one(rule.clone(), json!("éa")), "");
    assert_eq!(of_one(rule.clone(), json!("a")), "`a` has 1 characters, it needs 2");
    assert_eq!(of_one(rule.clone(), json!("aaaa")), "`a` has 4 characters, more than 3");
    assert_eq!(of_one(rule, json!("AB")), "`a` is \"AB\", which does not match ^[a-zé]+$");
    // A look-ahead is beyond this engine: the plugin decides.
    assert_eq!(of_one(json!({"pattern": "(?=x)"}), json!("y")), "");
}

#[test]
fn listed_values_and_constants() {
    let rule = json!({"enum": ["drop", "reject", 1]});
    assert_eq!(of_one(rule.clone(), json!(1.0)), "");
    assert_eq!(
        of_one(rule, json!("rejct")),
        "`a` is \"rejct\", not one of \"drop\", \"reject\", 1, did you mean \"reject\"?"
    );
    assert_eq!(of_one(json!({"const": 7}), json!(8)), "`a` is 8, not one of 7");
}

#[test]
fn lists_and_their_items() {
    let rule = json!({"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 2,
        "uniqueItems": true});
    assert_eq!(of_one(rule.clone(), json!(["x"])), "");
    assert_eq!(of_one(rule.clone(), json!([])), "`a` has 0 items, it needs 1");
    assert_eq!(of_one(rule.clone(), json!(["x", 5])), "`a[1]` is a number, not string");
    assert_eq!(
        of_one(rule, json!(["x", "x", "y"])),
        "`a` has 3 items, more than 2; `a` has \"x\" twice"
    );
    let pair = json!({"prefixItems": [{"type": "string"}, {"type": "number"}], "items": false});
    assert_eq!(of_one(pair.clone(), json!(["x", 1])), "");
    assert_eq!(
        of_one(pair, json!([1, 1, 1])),
        "`a[0]` is a number, not string; `a[2]` is not allowed"
    );
}

#[test]
fn nested_objects() {
    let rule = json!({"type": "object", "properties": {"low": {"type": "number"},
        "names": {"type": "array", "items": {"type": "string"}}},
        "required": ["low"], "additionalProperties": false});
    assert_eq!(of_one(rule.clone(), json!({"low": 1})), "");
    assert_eq!(
        of_one(rule, json!({"lwo": 1, "names": ["x", null]})),
        "`a.lwo` is unknown, did you mean `low`?; `a.names[1]` is null, not string; `a.low` is required"
    );
    let map = json!({"type": "object", "additionalProperties": {"type": "integer"}});
    assert_eq!(of_one(map, json!({"x": 1, "y": "2"})), "`a.y` is a string, not integer");
    let named =
        json!({"patternProperties": {"^x_": {"type": "boolean"}}, "additionalProperties": false});
    assert_eq!(of_one(named.clone(), json!({"x_a": true})), "");
    assert_eq!(
        of_one(named, json!({"x_a": 1, "y": 1})),
        "`a.x_a` is a number, not boolean; `a.y` is unknown, it takes none"
    );
}

#[test]
fn only_the_top_is_closed_by_itself() {
    assert_eq!(of(json!({}), json!({"a": 1})), "`a` is unknown, it takes none");
    assert_eq!(of(json!({"additionalProperties": true}), json!({"a": 1})), "");
    assert_eq!(of_one(json!({"type": "object"}), json!({"b": 1})), "");
    let by_reference = json!({"$ref": "#/$defs/O", "$defs": {"O": {"properties": {"a": {}}}}});
    assert_eq!(of(by_reference, json!({"a": 1})), "");
}

#[test]
fn forms_as_generators_write_them() {
    // What pydantic makes of `Optional[int]` and of a nested model.
    let optional = json!({"anyOf": [{"type": "integer"}, {"type": "null"}], "default": null});
    assert_eq!(of_one(optional.clone(), json!(null)), "");
    assert_eq!(of_one(optional, json!("x")), "`a` is a string, not integer or null");
    let schema = json!({
        "$defs": {"Range": {"type": "object", "properties": {"min": {"type": "integer", "minimum": 0}},
            "required": ["min"]}},
        "properties": {"range": {"anyOf": [{"$ref": "#/$defs/Range"}, {"type": "null"}]},
            "kind": {"oneOf": [{"const": "a"}, {"const": "b"}]}}});
    assert_eq!(of(schema.clone(), json!({"range": {"min": 3}, "kind": "b"})), "");
    assert_eq!(of(schema.clone(), json!({"range": {"min": -3}})), "`range.min` is -3, less than 0");
    assert_eq!(of(schema.clone(), json!({"range": 5})), "`range` is a number, not object or null");
    assert!(of(schema, json!({"kind": "c"})).contains("not one of"));
    let both = json!({"oneOf": [{"type": "number"}, {"minimum": 0}]});
    assert!(of_one(both, json!(1)).contains("fits 2 of the forms"));
    assert_eq!(of_one(json!({"not": {"const": 1}}), json!(1)), "`a` is 1, which is not allowed");
    let all = json!({"allOf": [{"minimum": 1}, {"maximum": 2}]});
    assert_eq!(of_one(all, json!(3)), "`a` is 3, more than 2");
}

#[test]
fn schemas_without_end_are_left() {
    let turning = json!({"$ref": "#"});
    assert!(of(turning, json!({})).contains("no end"));
    let doubling = json!({"$defs": {"x": {"allOf": [{"$ref": "#/$defs/x"}, {"$ref": "#/$defs/x"}]}},
        "$ref": "#/$defs/x"});
    assert!(of(doubling, json!({})).contains("no end"));
    let many = json!({"properties": {"a": {"items": {"type": "string"}}}});
    let text = of(many, json!({"a": vec![1; 1000]}));
    assert!(text.ends_with("and 950 more"), "{text}");
}

#[test]
fn authors_hear_of_their_schema() {
    let schema = json!({"properties": {
        "a": {"type": "strng"}, "b": {"pattern": "["}, "c": {"$ref": "#/$defs/no"},
        "d": {"type": "integer", "default": "x"}, "e": {"type": "integer", "default": 1}},
        "required": ["f"]});
    let found = lint(&schema).join("; ");
    for part in [
        "no type \"strng\"",
        "the pattern [",
        "leads nowhere",
        "`d`: its default",
        "`f` has no rule",
    ] {
        assert!(found.contains(part), "no {part} in {found}");
    }
    assert!(!found.contains("`e`"), "{found}");
    assert!(lint(&json!([])).concat().contains("not an object"));
}

#[test]
fn options_are_described_in_words() {
    let schema = json!({"properties": {
        "mode": {"enum": ["a", "b"], "default": "a", "description": "which"},
        "n": {"type": "integer", "minimum": 1, "maximum": 9},
        "tags": {"type": "array", "items": {"type": "string"}}},
        "required": ["n"]});
    let rows = describe(&schema);
    assert_eq!(rows[0].takes, "\"a\" | \"b\"");
    assert_eq!((rows[0].default.as_deref(), rows[0].about.as_str()), (Some("\"a\""), "which"));
    assert_eq!((rows[1].takes.as_str(), rows[1].required), ("integer, 1 to 9", true));
    assert_eq!(rows[2].takes, "list of string");
}

fn any_json() -> impl Strategy<Value = Value> {
    let word = prop::sample::select(vec![
        "type",
        "string",
        "object",
        "properties",
        "items",
        "enum",
        "$ref",
        "#",
        "#/properties",
        "anyOf",
        "not",
        "pattern",
        "(a+)+$",
        "required",
        "minimum",
        "additionalProperties",
        "default",
        "allOf",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((word.clone(), inner), 0..6).prop_map(|pairs| {
                Value::Object(pairs.into_iter().map(|(k, v)| (k.to_string(), v)).collect())
            }),
        ]
    })
}

proptest! {
    #[test]
    fn any_schema_ends_without_panic(schema in any_json(), value in any_json()) {
        faults(&schema, &value, true);
        lint(&schema);
        describe(&schema);
    }
}
