//! What a question may name, and what is said of one that names nothing.

use super::*;

#[test]
fn a_question_that_means_nothing_says_what_is_wrong_with_it() {
    let parse = |given: &[(&str, &str)]| {
        let given = given.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
        Question::parse(given.collect()).unwrap_err()
    };
    assert_eq!(parse(&[("source", "a/b")]), BadQuestion::Missing("destination"));
    assert_eq!(parse(&[("destination", "a/b:1")]), BadQuestion::Missing("source"));
    assert_eq!(parse(&[("from", "a/b")]), BadQuestion::Unknown("from".to_owned()));
    assert_eq!(parse(&[("protocol", "udp")]), BadQuestion::Protocol("udp".to_owned()));
}

#[test]
fn what_is_not_known_is_named() {
    let cases = [
        ("a/b", "10.0.0.1", "\"10.0.0.1\" has no port"),
        ("a/b", "10.0.0.1:0", "\"10.0.0.1:0\" has no port"),
        ("a/b", "c/d:0", "\"c/d:0\" has no port"),
        ("a/b", "c:80", "\"c\" is not a pod"),
        ("a/b", "c/d:80", "no pod or service c/d is known"),
        ("a/b", "spiffe://td/ns/a/sa/b:80", "no pod with the identity spiffe://td/ns/a/sa/b"),
        ("a/b", "[fd00::1]:80", "no pod a/b is known"),
        ("a/b/c", "10.0.0.1:80", "\"a/b/c\" is not a pod"),
    ];
    for (source, destination, expected) in cases {
        let question = Question {
            source: source.to_owned(),
            destination: destination.to_owned(),
            protocol: None,
        };
        let error = explain(&World::default(), &question).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn a_tunnel_from_somebody_without_an_identity_cannot_be_asked_for() {
    let question = Question {
        source: "10.0.0.9".to_owned(),
        destination: "10.0.0.1:80".to_owned(),
        protocol: Some(Carrier::Hbone),
    };
    let error = explain(&World::default(), &question).unwrap_err();
    assert_eq!(error, BadQuestion::NoIdentity("10.0.0.9".to_owned()));
}
