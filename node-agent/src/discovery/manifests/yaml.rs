//! YAML and JSON text → values, bounded in time and memory whatever the text says.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// What one document may grow to when its aliases are expanded, counted as [`NODE`] for each value
/// plus the bytes of its texts. A List of 5,000 pods with all their fields takes a third of it. The
/// parser's own limit counts how often an alias is used, and not how large the thing behind it is.
const BUDGET: usize = 128 << 20;

/// What a value costs in memory, roughly.
const NODE: usize = 64;

/// The deepest nesting of brackets in one document. libyaml takes time in the square of it, long
/// before serde's limit of 128 levels counts: 240 kB of `{a: ` keep it busy for half a minute.
const MAX_BRACKETS: usize = 1000;

/// The documents of a YAML file that have content. Splitting comes before parsing, so that a syntax
/// error ends with its document. A line that starts with `---` or `...` and a blank is a marker
/// wherever it stands, even within a block of text (YAML 1.2, section 9.1.2 and rule c-forbidden).
pub(super) fn documents(text: &str) -> Vec<String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut documents = Vec::new();
    let mut current = String::new();
    for line in text.split_inclusive('\n') {
        let marker = line.strip_prefix("---").or_else(|| line.strip_prefix("..."));
        match marker.filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n'])) {
            Some(rest) => {
                documents.push(std::mem::take(&mut current));
                current.push_str(rest);
            }
            None => current.push_str(line),
        }
    }
    documents.push(current);
    documents.retain(|document| has_content(document));
    documents
}

/// Whether there is more than blank lines, comments and `%` directives.
fn has_content(document: &str) -> bool {
    document.lines().any(|line| {
        let text = line.trim();
        !text.is_empty() && !text.starts_with('#') && !line.starts_with('%')
    })
}

/// One YAML document.
pub(super) fn parse_yaml(text: &str) -> Result<Value, String> {
    if too_many_brackets(text) {
        return Err(format!("nested deeper than {MAX_BRACKETS} levels"));
    }
    let text: String = text.split_inclusive('\n').filter(|line| !line.starts_with('%')).collect();
    let seed = Bounded(&Cell::new(BUDGET));
    seed.deserialize(serde_yaml::Deserializer::from_str(&text)).map_err(|error| error.to_string())
}

/// A JSON file.
pub(super) fn parse_json(text: &str) -> Result<Value, String> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let seed = Bounded(&Cell::new(BUDGET));
    let value = seed.deserialize(&mut deserializer).map_err(|error| error.to_string())?;
    deserializer.end().map_err(|error| error.to_string())?;
    Ok(value)
}

/// Whether brackets open more often than they close by too much. Brackets within texts count too,
/// which is why the limit is far above what anybody nests; whoever hides closing ones there to get
/// past it can write to the directory, and has no need to.
fn too_many_brackets(text: &str) -> bool {
    let mut depth = 0_usize;
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_BRACKETS {
            return true;
        }
    }
    false
}

/// A value that takes what it costs from a budget.
#[derive(Clone, Copy)]
struct Bounded<'a>(&'a Cell<usize>);

impl Bounded<'_> {
    fn spend<E: Error>(self, bytes: usize) -> Result<(), E> {
        let left = self.0.get().checked_sub(NODE + bytes);
        let left = left.ok_or_else(|| E::custom("the document is too large when expanded"))?;
        self.0.set(left);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value without a tag")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        self.spend(0)?;
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        self.spend(0)?;
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        self.spend(0)?;
        Ok(Value::from(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        self.spend(0)?;
        Ok(Value::from(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        self.spend(0)?;
        let number = Number::from_f64(value);
        let number = number.ok_or_else(|| E::custom("a number that is not finite"))?;
        Ok(Value::Number(number))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        self.spend(value.len())?;
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.spend(0)?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        self.spend(0)?;
        let mut map = Map::new();
        let mut merged = Vec::new();
        while let Some(key) = entries.next_key::<String>()? {
            self.spend(key.len())?;
            let value = entries.next_value_seed(self)?;
            if key == "<<" {
                merged.push(value);
            } else if map.contains_key(&key) {
                return Err(A::Error::custom(format_args!("duplicate entry with key {key:?}")));
            } else {
                map.insert(key, value);
            }
        }
        for value in merged {
            merge(&mut map, value).map_err(A::Error::custom)?;
        }
        Ok(Value::Object(map))
    }
}

/// `<<: *other` and `<<: [*one, *two]`: entries that the map does not have itself
/// (<https://yaml.org/type/merge.html>).
fn merge(map: &mut Map<String, Value>, value: Value) -> Result<(), &'static str> {
    let sources = if let Value::Array(sources) = value { sources } else { vec![value] };
    for source in sources {
        let Value::Object(source) = source else {
            return Err("`<<` needs a mapping or a list of mappings");
        };
        for (key, value) in source {
            map.entry(key).or_insert(value);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn splits_a_file_at_its_markers_and_leaves_empty_documents_out() {
        let text = "# licence\n%YAML 1.2\n---\na: 1\n--- # two\nb: |\n  ---\n  text\n...\n---\n\n\
                    --- {c: 3}\n----\n---\n# only a comment\n";
        let documents = documents(text);
        let trimmed: Vec<&str> = documents.iter().map(|text| text.trim()).collect();
        assert_eq!(trimmed, ["a: 1", "# two\nb: |\n  ---\n  text", "{c: 3}\n----"]);
    }

    #[test]
    fn a_file_of_windows_with_a_byte_order_mark_is_read() {
        let documents = documents("\u{feff}a: 1\r\n---\r\nb: 2\r\n");
        let values: Vec<_> = documents.iter().map(|text| parse_yaml(text)).collect();
        assert_eq!(values, [Ok(json("{\"a\":1}")), Ok(json("{\"b\":2}"))]);
    }

    #[test]
    fn anchors_and_merge_keys_are_expanded() {
        let text = "base: &base {x: 1, y: 2}\nuse: {<<: *base, y: 3}\nboth: {<<: [*base, {z: 4}]}";
        let expected = "{\"base\":{\"x\":1,\"y\":2},\"use\":{\"x\":1,\"y\":3},\
                        \"both\":{\"x\":1,\"y\":2,\"z\":4}}";
        assert_eq!(parse_yaml(text), Ok(json(expected)));
    }

    #[test]
    fn a_key_that_stands_twice_is_refused() {
        for text in ["a: 1\na: 2", "{\"a\": 1, \"a\": 2}"] {
            let error = parse_yaml(text).unwrap_err();
            assert!(error.contains("duplicate entry with key \"a\""), "{error}");
        }
        let error = parse_json("{\"a\": 1, \"a\": 2}").unwrap_err();
        assert!(error.contains("duplicate entry with key \"a\""), "{error}");
    }

    #[test]
    fn what_cannot_be_read_names_its_place() {
        let error = parse_yaml("a: 1\nb: [").unwrap_err();
        assert!(error.contains("line 2") || error.contains("line 3"), "{error}");
        let error = parse_json("{\"a\": 1").unwrap_err();
        assert!(error.contains("line 1"), "{error}");
        assert!(parse_json("{} {}").is_err());
        assert!(parse_yaml("a: !secret b").is_err());
        assert!(parse_yaml("a: .nan").is_err());
        assert!(parse_yaml("a: *nowhere").is_err());
    }

    #[test]
    fn an_alias_bomb_is_refused_soon() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..20 {
            let refs = vec![format!("*a{}", n - 1); 9].join(", ");
            text.push_str(&format!("a{n}: &a{n} [{refs}]\n"));
        }
        refused_soon(&text);
    }

    #[test]
    fn a_large_value_that_is_repeated_often_is_refused_soon() {
        let long = "x".repeat(1 << 20);
        let list = "- *long\n".repeat(100_000);
        refused_soon(&format!("long: &long {long}\nlist:\n{list}"));

        let items = "- 1\n".repeat(100_000);
        let list = "- *items\n".repeat(100_000);
        refused_soon(&format!("items: &items\n{items}list:\n{list}"));
    }

    #[test]
    fn deep_nesting_is_refused_soon() {
        refused_soon(&"[".repeat(16 << 20));
        refused_soon(&format!("{}{}", "[".repeat(900), "]".repeat(900)));
        refused_soon(&"{a: ".repeat(1 << 20));
        refused_soon(&"- ".repeat(1 << 16));
        refused_soon(&"? ".repeat(1 << 16));
        let indented: String = (0..3000).map(|n| format!("{}a:\n", " ".repeat(n))).collect();
        refused_soon(&indented);
        assert!(parse_json(&"[".repeat(16 << 20)).is_err());
    }

    #[test]
    fn many_small_values_are_read_or_refused_soon() {
        within_limit("a small list", || {
            assert!(parse_yaml(&"- a\n".repeat(100_000)).is_ok());
        });
        refused_soon(&"- a\n".repeat(4 << 20));
    }

    #[track_caller]
    fn refused_soon(text: &str) {
        let start: String = text.chars().take(20).collect();
        within_limit(&start, || assert!(parse_yaml(text).is_err()));
    }

    #[track_caller]
    fn within_limit(what: &str, check: impl FnOnce()) {
        let started = worked();
        check();
        let took = worked() - started;
        assert!(took < Duration::from_secs(20), "{what}: {took:?}");
    }

    /// What this thread has had of a core, which does not depend on what else the machine does
    /// (`proc_pid_schedstat` in the kernel).
    fn worked() -> Duration {
        let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
    }

    fn json(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }
}
