//! The `identity` part of the configuration.

use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use rustls::pki_types::ServerName;
use serde::Deserialize;

use crate::pki::MAX_LIFETIME;

/// The shortest life that makes sense to ask for.
const MIN_LIFETIME: Duration = Duration::from_secs(2);

/// How certificates are obtained.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The life that is asked for; the CA may give less.
    pub lifetime: Duration,
    /// Who signs.
    pub ca: CaSettings,
}

/// Who signs.
#[derive(Debug, Clone)]
pub enum CaSettings {
    /// A CA service.
    Remote(RemoteCa),
    /// This process, with the directory that `adit ca init` made.
    File(PathBuf),
}

/// A CA service, and how it and this node prove who they are.
#[derive(Debug, Clone)]
pub struct RemoteCa {
    /// `https://host:port`.
    pub address: Uri,
    /// The roots that its TLS certificate must chain to, PEM; read at each request.
    pub root: PathBuf,
    /// The bearer token of this node; read at each request, because projected tokens rotate.
    pub token: PathBuf,
    /// The name that its TLS certificate must have.
    pub server_name: ServerName<'static>,
}

/// [`Settings`] as they are written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RawSettings {
    /// Such as `24h`, which is the default.
    #[serde(default)]
    pub lifetime: Option<String>,
    /// Who signs.
    pub ca: RawCa,
}

/// [`CaSettings`] as they are written: `file`, or everything else.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RawCa {
    /// The directory that `adit ca init` made.
    #[serde(default)]
    pub file: Option<PathBuf>,
    /// `https://host:port`.
    #[serde(default)]
    pub address: Option<String>,
    /// Path of the CA's roots.
    #[serde(default)]
    pub root: Option<PathBuf>,
    /// Path of the token.
    #[serde(default)]
    pub token: Option<PathBuf>,
    /// The name in the CA's TLS certificate; by default the host of `address`.
    #[serde(default)]
    pub server_name: Option<String>,
}

/// Which field is wrong, and how.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("identity.{field}: {problem}")]
pub struct SettingsError {
    /// The path of the field below `identity`.
    pub field: &'static str,
    /// What is wrong with it, and what would be right.
    pub problem: String,
}

impl TryFrom<RawSettings> for Settings {
    type Error = SettingsError;

    fn try_from(raw: RawSettings) -> Result<Self, SettingsError> {
        let RawSettings { lifetime, ca } = raw;
        let lifetime = match lifetime {
            None => MAX_LIFETIME,
            Some(text) => parse_lifetime(&text).ok_or_else(|| {
                let example = "give a time from 2s to 24h, such as 24h, 90m or 30s";
                wrong("lifetime", format!("{text:?} is not allowed: {example}"))
            })?,
        };
        let ca = ca.try_into()?;
        Ok(Self { lifetime, ca })
    }
}

impl TryFrom<RawCa> for CaSettings {
    type Error = SettingsError;

    fn try_from(raw: RawCa) -> Result<Self, SettingsError> {
        let RawCa { file, address, root, token, server_name } = raw;
        if let Some(file) = file {
            if address.is_some() || root.is_some() || token.is_some() || server_name.is_some() {
                let problem = "give either `file` or `address`, `root` and `token`, not both";
                return Err(wrong("ca", problem.to_owned()));
            }
            return Ok(Self::File(file));
        }
        let missing = |field, what: &str| wrong(field, format!("is missing: give {what}"));
        let address = address.ok_or_else(|| {
            missing("ca.address", "https://HOST:PORT of the CA, or `file` instead")
        })?;
        let (address, host) = parse_address(&address)?;
        let name = server_name.unwrap_or(host);
        let server_name = ServerName::try_from(name.clone()).map_err(|_bad| {
            let problem = format!("{name:?} is neither a DNS name nor an address");
            wrong("ca.serverName", problem)
        })?;
        Ok(Self::Remote(RemoteCa {
            address,
            root: root.ok_or_else(|| missing("ca.root", "the path of the CA's root, PEM"))?,
            token: token.ok_or_else(|| missing("ca.token", "the path of this node's token"))?,
            server_name,
        }))
    }
}

/// The address, and its host without the brackets of an IPv6 address.
fn parse_address(text: &str) -> Result<(Uri, String), SettingsError> {
    let problem = || {
        let example = "give https://HOST:PORT, such as https://10.0.0.1:15012";
        wrong("ca.address", format!("{text:?} is not allowed: {example}"))
    };
    let uri: Uri = text.parse().map_err(|_bad| problem())?;
    let host = uri.host().ok_or_else(problem)?;
    let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let plain = uri.path_and_query().is_none_or(|path| path.as_str() == "/");
    if uri.scheme_str() != Some("https") || uri.port_u16().is_none() || !plain {
        return Err(problem());
    }
    Ok((uri, bare))
}

fn parse_lifetime(text: &str) -> Option<Duration> {
    let unit = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit);
    let number: u64 = number.parse().ok()?;
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    let lifetime = Duration::from_secs(number.checked_mul(factor)?);
    (MIN_LIFETIME..=MAX_LIFETIME).contains(&lifetime).then_some(lifetime)
}

const fn wrong(field: &'static str, problem: String) -> SettingsError {
    SettingsError { field, problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_remote_ca_and_takes_the_name_from_the_address() {
        let settings =
            read("lifetime: 90m\nca: {address: \"https://[fd00::1]:15012\", root: /r, token: /t}")
                .unwrap();
        assert_eq!(settings.lifetime, Duration::from_secs(5400));
        let CaSettings::Remote(ca) = settings.ca else {
            panic!("not remote");
        };
        assert_eq!(ca.address.port_u16(), Some(15012));
        assert_eq!(ca.server_name, ServerName::try_from("fd00::1").unwrap());
    }

    #[test]
    fn a_server_name_overrides_the_host_of_the_address() {
        let text =
            "ca: {address: \"https://10.0.0.1:15012\", root: /r, token: /t, serverName: adit-ca}";
        let settings = read(text).unwrap();
        assert_eq!(settings.lifetime, MAX_LIFETIME);
        let CaSettings::Remote(ca) = settings.ca else {
            panic!("not remote");
        };
        assert_eq!(ca.server_name, ServerName::try_from("adit-ca").unwrap());
    }

    #[test]
    fn reads_a_directory() {
        let settings = read("ca: {file: /etc/adit/ca}").unwrap();
        assert!(matches!(settings.ca, CaSettings::File(path) if path.ends_with("ca")));
    }

    #[test]
    fn names_the_field_that_is_wrong_and_what_would_be_right() {
        let remote = |address: &str| format!("ca: {{address: {address:?}, root: /r, token: /t}}");
        let cases = [
            ("ca: {}".to_owned(), "ca.address"),
            ("ca: {file: /a, token: /t}".to_owned(), "ca"),
            ("lifetime: 25h\nca: {file: /a}".to_owned(), "lifetime"),
            ("lifetime: 1s\nca: {file: /a}".to_owned(), "lifetime"),
            ("lifetime: h\nca: {file: /a}".to_owned(), "lifetime"),
            ("lifetime: 5 m\nca: {file: /a}".to_owned(), "lifetime"),
            (remote("http://10.0.0.1:15012"), "ca.address"),
            (remote("https://10.0.0.1"), "ca.address"),
            (remote("https://10.0.0.1:1/x"), "ca.address"),
            (remote("hello"), "ca.address"),
            (remote("https://a_b!:1"), "ca.serverName"),
            ("ca: {address: \"https://a:1\", token: /t}".to_owned(), "ca.root"),
            ("ca: {address: \"https://a:1\", root: /t}".to_owned(), "ca.token"),
        ];
        for (text, field) in cases {
            let error = read(&text).unwrap_err();
            assert_eq!(error.field, field, "{text}: {error}");
        }
    }

    #[test]
    fn an_unknown_field_is_refused() {
        let error = serde_yaml::from_str::<RawSettings>("ca: {file: /a, tokn: /t}").unwrap_err();
        assert!(error.to_string().contains("tokn"), "{error}");
    }

    fn read(text: &str) -> Result<Settings, SettingsError> {
        serde_yaml::from_str::<RawSettings>(text).unwrap().try_into()
    }
}
