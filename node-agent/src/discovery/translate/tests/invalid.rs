//! Fields that are wrong.

use super::*;

#[test]
fn an_invalid_field_of_a_pod_is_named_with_its_value() {
    let pods = [
        (r#""metadata": {}"#, "metadata.name: missing: this field is required"),
        (
            r#""metadata": {"name": "A_b"}"#,
            "metadata.name: \"A_b\": not a Kubernetes name: lower-case letters, digits, '-' and \
             '.', at most 253",
        ),
        (
            r#""metadata": {"name": "a", "uid": "../x"}"#,
            "metadata.uid: \"../x\": not a UID: at most 63 letters, digits and '-'",
        ),
        (
            r#""metadata": {"name": "a"}, "spec": {"containers": [], "serviceAccountName": "a/b"}"#,
            "spec.serviceAccountName: \"a/b\": a path segment is not of [a-z0-9.-]{1,253}",
        ),
        (
            r#""metadata": {"name": "a"}, "status": {"podIPs": [{"ip": "::1"}]}"#,
            "status.podIPs[0].ip: \"::1\": an unspecified, loopback, multicast or broadcast \
             address is nobody's own",
        ),
        (
            r#""metadata": {"name": "a"},
               "status": {"podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0"}]}"#,
            "status.podIPs[1].ip: \"10.0.0\": not an IP address",
        ),
        (
            r#""metadata": {"name": "a"}, "status": {"phase": "Running?"}"#,
            "status.phase: \"Running?\": not Pending, Running, Succeeded, Failed or Unknown",
        ),
        (
            r#""metadata": {"name": "a", "labels": {"app": "x\r\ny: z"}}"#,
            "metadata.labels[\"app\"]: \"x\\r\\ny: z\": not a label value: at most 63 letters, \
             digits, '-', '_' and '.'",
        ),
        (
            r#""metadata": {"name": "a"}, "spec": {"containers": [{"name": "c",
               "ports": [{"containerPort": 0}]}]}"#,
            "spec.containers[0].ports[0].containerPort: \"0\": not a port number: 1 to 65535",
        ),
    ];
    for (fields, expected) in pods {
        let error = read_pod(&format!("{{{fields}}}")).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn an_invalid_field_of_a_service_is_named_with_its_value() {
    let services = [
        (r#"{"clusterIP": "10.0.0.0.1"}"#, "spec.clusterIP: \"10.0.0.0.1\": not an IP address"),
        (
            r#"{"clusterIPs": ["10.96.0.1", "0.0.0.0"]}"#,
            "spec.clusterIPs[1]: \"0.0.0.0\": an unspecified, loopback, multicast or broadcast \
             address is nobody's own",
        ),
        (
            r#"{"ports": [{"port": 65536}]}"#,
            "spec.ports[0].port: \"65536\": not a port number: 1 to 65535",
        ),
        (
            r#"{"ports": [{"port": 1, "targetPort": -1}]}"#,
            "spec.ports[0].targetPort: \"-1\": not a port number: 1 to 65535",
        ),
        (
            r#"{"ports": [{"port": 1, "protocol": "tcp"}]}"#,
            "spec.ports[0].protocol: \"tcp\": not TCP, UDP or SCTP",
        ),
        (
            r#"{"ports": [{"name": "a", "port": 1}, {"port": 2}]}"#,
            "spec.ports[1].name: missing: this field is required",
        ),
        (
            r#"{"ports": [{"name": "a", "port": 1}, {"name": "a", "port": 2}]}"#,
            "spec.ports[1].name: \"a\": used by two ports",
        ),
        (
            r#"{"ports": [{"name": "a", "port": 1}, {"name": "b", "port": 1}]}"#,
            "spec.ports[1].port: \"1\": used by two TCP ports",
        ),
        (
            r#"{"sessionAffinity": "Cookie"}"#,
            "spec.sessionAffinity: \"Cookie\": not None or ClientIP",
        ),
        (
            r#"{"sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}}"#,
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: \"0\": not 1 to 86400",
        ),
    ];
    for (spec, expected) in services {
        assert_eq!(read_service(spec).unwrap_err().to_string(), expected);
    }
}

#[test]
fn an_invalid_field_of_a_slice_is_named_with_its_value() {
    let long = "x".repeat(200);
    let slices = [
        (
            r#"{"addressType": "ipv4", "endpoints": []}"#.to_owned(),
            "addressType: \"ipv4\": not IPv4, IPv6 or FQDN".to_owned(),
        ),
        (
            r#"{"addressType": "IPv4", "endpoints": [{"addresses": ["fd00::1"]}]}"#.to_owned(),
            "endpoints[0].addresses[0]: \"fd00::1\": not of the slice's addressType".to_owned(),
        ),
        (
            format!(r#"{{"addressType": "IPv4", "endpoints": [{{"addresses": ["{long}"]}}]}}"#),
            format!("endpoints[0].addresses[0]: \"{}…\": not an IP address", "x".repeat(80)),
        ),
    ];
    for (slice, expected) in slices {
        assert_eq!(read_slice(&slice).unwrap_err().to_string(), expected);
    }
}
