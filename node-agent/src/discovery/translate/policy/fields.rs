//! The fields of an object as its manifest has them. Each is asked for by name; what nobody asked
//! for is told, because in a policy no field may be dropped in silence.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::discovery::translate::Invalid;

/// What is wrong so far.
pub(super) type Wrong = Vec<Invalid>;

/// The fields of one object that have not been asked for yet.
pub(super) struct Fields<'a> {
    at: String,
    left: BTreeMap<&'a str, &'a Value>,
}

impl<'a> Fields<'a> {
    /// The fields of `value`, which stands at the path `at`. Nothing and `null` have none.
    pub(super) fn of(at: impl Into<String>, value: Option<&'a Value>, wrong: &mut Wrong) -> Self {
        let at = at.into();
        let left = match value {
            None | Some(Value::Null) => BTreeMap::new(),
            Some(Value::Object(map)) => map.iter().map(|(key, value)| (&**key, value)).collect(),
            Some(other) => {
                wrong.push(not(&at, other, "an object"));
                BTreeMap::new()
            }
        };
        Self { at, left }
    }

    /// The path of a field.
    pub(super) fn path(&self, name: &str) -> String {
        if self.at.is_empty() { name.to_owned() } else { format!("{}.{name}", self.at) }
    }

    /// A field as it stands; `None` if it is absent or `null`.
    pub(super) fn take(&mut self, name: &str) -> Option<&'a Value> {
        self.left.remove(name).filter(|value| !value.is_null())
    }

    /// An object.
    pub(super) fn object(&mut self, name: &str, wrong: &mut Wrong) -> Self {
        Self::of(self.path(name), self.take(name), wrong)
    }

    /// A text; empty if it is absent.
    pub(super) fn text(&mut self, name: &str, wrong: &mut Wrong) -> String {
        let path = self.path(name);
        self.take(name).map_or_else(String::new, |value| text(&path, value, wrong))
    }

    /// A list, each element with its path.
    pub(super) fn list(
        &mut self,
        name: &str,
        wrong: &mut Wrong,
    ) -> Option<Vec<(String, &'a Value)>> {
        let path = self.path(name);
        let value = self.take(name)?;
        let Value::Array(items) = value else {
            wrong.push(not(&path, value, "a list"));
            return None;
        };
        let items = items.iter().enumerate();
        Some(items.map(|(i, item)| (format!("{path}[{i}]"), item)).collect())
    }

    /// A list of texts; empty if it is absent.
    pub(super) fn texts(&mut self, name: &str, wrong: &mut Wrong) -> Vec<String> {
        let items = self.list(name, wrong).unwrap_or_default();
        items.into_iter().map(|(path, item)| text(&path, item, wrong)).collect()
    }

    /// The fields of an object whose values are texts, such as labels.
    pub(super) fn text_map(&mut self, name: &str, wrong: &mut Wrong) -> BTreeMap<String, String> {
        let Self { at, left } = self.object(name, wrong);
        let entries = left.into_iter();
        entries
            .map(|(key, value)| (key.to_owned(), text(&format!("{at}[{key:?}]"), value, wrong)))
            .collect()
    }

    /// The objects in an object, each by its name.
    pub(super) fn objects(&mut self, name: &str, wrong: &mut Wrong) -> Vec<(String, Self)> {
        let Self { at, left } = self.object(name, wrong);
        let entries = left.into_iter();
        entries
            .map(|(key, value)| {
                let fields = Self::of(format!("{at}[{key}]"), Some(value), wrong);
                (key.to_owned(), fields)
            })
            .collect()
    }

    /// The names of the fields that nobody asked for and that say something.
    pub(super) fn rest(self) -> Vec<String> {
        let says = |value: &Value| match value {
            Value::Null => false,
            Value::Bool(_) | Value::Number(_) => true,
            Value::String(text) => !text.is_empty(),
            Value::Array(items) => !items.is_empty(),
            Value::Object(fields) => !fields.is_empty(),
        };
        let left = self.left.into_iter().filter(|(_, value)| says(value));
        left.map(|(name, _)| name.to_owned()).collect()
    }

    /// The same, with their paths.
    pub(super) fn rest_paths(self) -> Vec<String> {
        let at = Self { at: self.at.clone(), left: BTreeMap::new() };
        self.rest().iter().map(|name| at.path(name)).collect()
    }
}

fn text(path: &str, value: &Value, wrong: &mut Wrong) -> String {
    let Value::String(text) = value else {
        wrong.push(not(path, value, "a text: write it in quotes"));
        return String::new();
    };
    text.clone()
}

fn not(path: &str, value: &Value, expected: &str) -> Invalid {
    Invalid::new(path, &value.to_string(), format!("not {expected}"))
}
