//! A CNI configuration list (CNI specification 1.0, section 1) with and without adit's plugin at its end.
//! Pure: text in, text out.

use serde_json::{Map, Value};

use super::PLUGIN;

/// Why a file cannot have the plugin.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConflistError {
    /// Not JSON.
    #[error("not JSON: {0}")]
    NotJson(String),
    /// Not a list of plugins.
    #[error("not a list of plugins: it has no `plugins` with at least one that has a `type`")]
    NotAList,
}

/// The list with this entry as its last plugin, and nowhere else; `None` if it is like that already.
///
/// # Errors
/// It is no list that a plugin can be added to.
pub fn with(text: &str, entry: &Value) -> Result<Option<String>, ConflistError> {
    let mut list = parse(text)?;
    let plugins = plugins(&mut list)?;
    let ours: Vec<usize> = places(plugins);
    if ours == [plugins.len() - 1] && plugins.last() == Some(entry) {
        return Ok(None);
    }
    plugins.retain(|plugin| !is_ours(plugin));
    if plugins.is_empty() {
        return Err(ConflistError::NotAList);
    }
    plugins.push(entry.clone());
    Ok(Some(print(&list)))
}

/// The list without the plugin; `None` if it has none.
///
/// # Errors
/// It is no list of plugins.
pub fn without(text: &str) -> Result<Option<String>, ConflistError> {
    let mut list = parse(text)?;
    let plugins = plugins(&mut list)?;
    if places(plugins).is_empty() {
        return Ok(None);
    }
    plugins.retain(|plugin| !is_ours(plugin));
    Ok(Some(print(&list)))
}

fn parse(text: &str) -> Result<Map<String, Value>, ConflistError> {
    serde_json::from_str(text).map_err(|error| ConflistError::NotJson(error.to_string()))
}

fn plugins(list: &mut Map<String, Value>) -> Result<&mut Vec<Value>, ConflistError> {
    let plugins = list.get_mut("plugins").and_then(Value::as_array_mut);
    let plugins = plugins.ok_or(ConflistError::NotAList)?;
    let typed = |plugin: &Value| plugin.get("type").is_some_and(Value::is_string);
    if plugins.is_empty() || !plugins.iter().all(typed) {
        return Err(ConflistError::NotAList);
    }
    Ok(plugins)
}

fn places(plugins: &[Value]) -> Vec<usize> {
    let of = plugins.iter().enumerate().filter(|(_, plugin)| is_ours(plugin));
    of.map(|(index, _)| index).collect()
}

fn is_ours(plugin: &Value) -> bool {
    plugin.get("type").and_then(Value::as_str) == Some(PLUGIN)
}

fn print(list: &Map<String, Value>) -> String {
    // A map of JSON values always prints.
    let mut text = serde_json::to_string_pretty(list).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const LIST: &str = r#"{"cniVersion": "0.4.0", "name": "lab", "plugins": [
        {"type": "bridge", "ipam": {"type": "host-local"}}, {"type": "portmap"}]}"#;

    fn entry() -> Value {
        json!({ "type": PLUGIN, "socket": "/run/adit/adit.sock" })
    }

    fn types(text: &str) -> Vec<String> {
        let list: Value = serde_json::from_str(text).unwrap();
        let plugins = list["plugins"].as_array().unwrap().iter();
        plugins.map(|plugin| plugin["type"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn the_plugin_comes_last_and_everything_else_stays() {
        let text = with(LIST, &entry()).unwrap().unwrap();
        assert_eq!(types(&text), ["bridge", "portmap", PLUGIN]);
        let list: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(list["plugins"][0]["ipam"]["type"], "host-local");
        assert_eq!((&list["cniVersion"], &list["name"]), (&json!("0.4.0"), &json!("lab")));
        assert_eq!(with(&text, &entry()), Ok(None));
    }

    #[test]
    fn one_that_is_old_or_in_another_place_is_replaced() {
        let text = with(LIST, &json!({ "type": PLUGIN, "socket": "/old" })).unwrap().unwrap();
        let text = with(&text, &entry()).unwrap().unwrap();
        assert!(!text.contains("/old"));
        assert_eq!(types(&text), ["bridge", "portmap", PLUGIN]);
        let between = format!(r#"{{"plugins":[{{"type":"a"}},{},{{"type":"b"}}]}}"#, entry());
        assert_eq!(types(&with(&between, &entry()).unwrap().unwrap()), ["a", "b", PLUGIN]);
    }

    #[test]
    fn taking_it_out_leaves_what_was_there() {
        let text = with(LIST, &entry()).unwrap().unwrap();
        let back: Value = serde_json::from_str(&without(&text).unwrap().unwrap()).unwrap();
        assert_eq!(back, serde_json::from_str::<Value>(LIST).unwrap());
        assert_eq!(without(LIST), Ok(None));
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for text in ["", "{", "[]", "null"] {
            assert!(matches!(with(text, &entry()), Err(ConflistError::NotJson(_))), "{text}");
        }
        for text in [
            "{}",
            r#"{"type":"bridge"}"#,
            r#"{"plugins":{}}"#,
            r#"{"plugins":[]}"#,
            r#"{"plugins":[1]}"#,
            r#"{"plugins":[{"name":"x"}]}"#,
            r#"{"plugins":[{"type":"adit-cni"}]}"#,
        ] {
            let refused = with(text, &json!({ "type": PLUGIN, "new": true }));
            assert_eq!(refused, Err(ConflistError::NotAList), "{text}");
        }
    }
}
