//! What an item of `toPorts` asks for above L4. All of it is checked, none of it is enforced yet.

use super::super::decode::{Cursor, Faults, Fields};
use super::{Context, Side, Unenforced, peers};
use crate::objects::{CiliumPort, CiliumPortMatch, Protocol};
use regex::RegexBuilder;

/// Longer expressions are refused, in bytes; so are those that would compile to more than the second figure.
const REGEX_MAX: usize = 4096;
const REGEX_COMPILED_MAX: usize = 1 << 20;

/// `ports` are those of the same item that could be read.
pub(super) fn decode(
    item: &Fields<'_>,
    ports: &[CiliumPort],
    context: Context,
    unenforced: &mut Unenforced,
    faults: &mut Faults,
) {
    let names = ["rules", "serverNames", "terminatingTLS", "originatingTLS", "listener"];
    if context.section.is_deny {
        for at in names.iter().filter_map(|name| item.get_or_null(name)) {
            faults.error(&at, "a deny rule takes ports only; what is above L4 can only be allowed");
        }
        return;
    }
    let has_rules = item.given("rules", faults).is_some_and(|at| {
        let present = rules(&at, ports, context, faults);
        for at in &present {
            let name = at.path.rsplit('.').next().unwrap_or_default();
            unenforced.push(at, &format!("{name} rules"), context.effect(), faults);
        }
        !present.is_empty()
    });
    for name in ["terminatingTLS", "originatingTLS"] {
        if let Some(at) = item.given(name, faults) {
            tls(&at, faults);
            unenforced.push(&at, "TLS interception", context.effect(), faults);
        }
    }
    if let Some(at) = item.given("serverNames", faults) {
        server_names(&at, has_rules && item.get("terminatingTLS").is_none(), faults);
        unenforced.push(&at, "TLS server names", context.effect(), faults);
    }
    if let Some(at) = item.given("listener", faults) {
        listener(&at, has_rules, context, faults);
        unenforced.push(&at, "Envoy listeners", context.effect(), faults);
    }
}

/// The kinds of rules that are there.
fn rules<'a>(
    at: &Cursor<'a>,
    ports: &[CiliumPort],
    context: Context,
    faults: &mut Faults,
) -> Vec<Cursor<'a>> {
    let Some(fields) = at.fields(&["http", "kafka", "dns", "l7proto", "l7"], faults) else {
        return Vec::new();
    };
    let present: Vec<Cursor<'a>> =
        ["http", "kafka", "dns", "l7proto"].iter().filter_map(|name| fields.given(name, faults)).collect();
    if let [_, second, ..] = present.as_slice() {
        faults.error(
            second,
            "only one of http, kafka, dns and l7proto may be there; make items of toPorts of them",
        );
    }
    if let Some(at) = fields.given("l7", faults) {
        if fields.get("l7proto").is_none() {
            faults.error(&at, "needs l7proto, the name of the protocol it is about");
        }
        for item in at.items(faults) {
            if item.string_map(faults).keys().any(String::is_empty) {
                faults.error(&item, "a key is empty");
            }
        }
    }
    if let Some(at) = fields.get("l7proto") {
        at.string(faults);
    }
    if let Some(at) = fields.get("http") {
        at.items(faults).iter().for_each(|item| _ = http(item, faults));
    }
    if let Some(at) = fields.get("kafka") {
        at.items(faults).iter().for_each(|item| _ = kafka(item, faults));
    }
    let dns = fields.get("dns");
    if let Some(at) = &dns {
        at.items(faults).iter().for_each(|item| _ = peers::fqdn(item, faults));
    }
    for at in &present {
        fits(at, ports, dns.is_some(), context, faults);
    }
    present
}

/// Rules of a protocol where that protocol cannot be spoken.
fn fits(at: &Cursor<'_>, ports: &[CiliumPort], is_dns: bool, context: Context, faults: &mut Faults) {
    match (is_dns, context.section.side) {
        (true, Side::Ingress) => {
            faults.error(at, "DNS rules are for egress; what a pod answers is not filtered")
        }
        (false, Side::Ingress) if context.is_host => {
            faults.error(at, "a rule about nodes takes no rules above L4");
        }
        (false, Side::Egress) if context.is_host => {
            faults.error(at, "a rule about nodes takes only DNS rules above L4");
        }
        _ => {}
    }
    if is_dns && ports.is_empty() {
        faults.error(at, "needs the port of DNS in ports, like {port: \"53\", protocol: ANY}");
    }
    for port in ports {
        match &port.port {
            CiliumPortMatch::All => {
                faults.error(
                    at,
                    format_args!("cannot hold for every port, as {} says; name the ports", port.path),
                );
            }
            CiliumPortMatch::Range { first, last } if is_dns && first != last => {
                faults.error(at, format_args!("cannot hold for a range of ports, as in {}", port.path));
            }
            _ if !is_dns && port.protocol != Some(Protocol::Tcp) => {
                faults.error(at, format_args!("needs TCP; write protocol: TCP in {}", port.path));
            }
            _ => {}
        }
    }
}

fn http(at: &Cursor<'_>, faults: &mut Faults) -> Option<()> {
    let fields = at.fields(&["path", "method", "host", "headers", "headerMatches"], faults)?;
    for name in ["path", "method", "host"] {
        if let Some(at) = fields.given(name, faults) {
            regex(&at, faults);
        }
    }
    if let Some(at) = fields.given("headers", faults) {
        for item in at.items(faults) {
            // "Name: value", or "Name" alone.
            let name = item.string(faults).map(|text| text.split_once(':').map_or(text, |(name, _)| name));
            header_name(name, &item, faults);
        }
    }
    if let Some(at) = fields.given("headerMatches", faults) {
        at.items(faults).iter().for_each(|item| _ = header_match(item, faults));
    }
    Some(())
}

fn regex(at: &Cursor<'_>, faults: &mut Faults) -> Option<()> {
    let text = at.string(faults)?;
    if text.len() > REGEX_MAX {
        faults.error(at, format_args!("has {} bytes; {REGEX_MAX} is the most for an expression", text.len()));
        return None;
    }
    match RegexBuilder::new(text).size_limit(REGEX_COMPILED_MAX).build() {
        Ok(_) => Some(()),
        Err(regex::Error::CompiledTooBig(_)) => {
            faults.error(at, "is too large an expression; use fewer and smaller repetitions");
            None
        }
        Err(error) => {
            // The library draws the expression with a caret below; its last line is the reason.
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
            faults.error(at, format_args!("is no regular expression: {reason}"));
            None
        }
    }
}

/// A token of RFC 9110.
fn header_name(name: Option<&str>, at: &Cursor<'_>, faults: &mut Faults) {
    let Some(name) = name else { return };
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || !name.bytes().all(is_token) {
        faults.error(at, format_args!("{name:?} is no header's name"));
    }
}

fn header_match(at: &Cursor<'_>, faults: &mut Faults) -> Option<()> {
    let fields = at.fields(&["name", "value", "mismatch", "secret"], faults)?;
    if let Some(at) = fields.require("name", "the header's name", faults) {
        header_name(at.string(faults), &at, faults);
    }
    if let Some(at) = fields.given("value", faults) {
        at.string(faults);
    }
    if let Some(at) = fields.given("mismatch", faults)
        && let Some(text) = at.string(faults)
        && !["", "LOG", "ADD", "DELETE", "REPLACE"].contains(&text)
    {
        faults.error(
            &at,
            format_args!("{text:?} is no action; use LOG, ADD, DELETE or REPLACE, or none to refuse"),
        );
    }
    if let Some(at) = fields.given("secret", faults) {
        secret(&at, faults);
    }
    Some(())
}

fn kafka(at: &Cursor<'_>, faults: &mut Faults) -> Option<()> {
    let fields = at.fields(&["role", "apiKey", "apiVersion", "clientID", "topic"], faults)?;
    for name in ["role", "apiKey", "apiVersion", "clientID", "topic"] {
        if let Some(at) = fields.given(name, faults) {
            let text = at.string(faults);
            if name == "role" && text.is_some_and(|text| !["produce", "consume"].contains(&text)) {
                faults.error(&at, "is no role; use produce or consume");
            }
        }
    }
    if fields.get("role").is_some()
        && let Some(at) = fields.get("apiKey")
    {
        faults.error(&at, "cannot stand beside role, which is a set of API keys");
    }
    Some(())
}

fn secret(at: &Cursor<'_>, faults: &mut Faults) -> Option<()> {
    let fields = at.fields(&["name", "namespace"], faults)?;
    fields.require("name", "the secret's name", faults)?.string(faults)?;
    fields.string("namespace", faults)?;
    Some(())
}

fn tls(at: &Cursor<'_>, faults: &mut Faults) -> Option<()> {
    let fields = at.fields(&["secret", "trustedCA", "certificate", "privateKey"], faults)?;
    for name in ["trustedCA", "certificate", "privateKey"] {
        fields.string(name, faults);
    }
    secret(&fields.require("secret", "the secret with certificate and key", faults)?, faults)
}

fn server_names(at: &Cursor<'_>, beside_rules: bool, faults: &mut Faults) {
    let items = at.items(faults);
    if items.is_empty() {
        faults.error(at, "is an empty list; give it a name or remove it");
    }
    if beside_rules {
        faults.error(
            at,
            "cannot stand beside rules without terminatingTLS: the names are inside of what is encrypted",
        );
    }
    for item in items {
        let Some(text) = item.string(faults) else { continue };
        let body = text.strip_prefix("**.").or_else(|| text.strip_prefix("*.")).unwrap_or(text);
        if !peers::is_name_pattern(body) || body.contains('*') {
            faults.error(
                &item,
                format_args!("{text:?} is no server name; use a DNS name, perhaps with *. or **. before it"),
            );
        }
    }
}

fn listener(at: &Cursor<'_>, beside_rules: bool, context: Context, faults: &mut Faults) -> Option<()> {
    if context.section.side == Side::Ingress {
        faults.error(at, "is for egress only");
    }
    if beside_rules {
        faults.error(at, "cannot stand beside rules; make two items of toPorts of them");
    }
    let fields = at.fields(&["envoyConfig", "name", "priority"], faults)?;
    if let Some(at) = fields.given("priority", faults) {
        at.number(1, 100, faults);
    }
    let text = |fields: &Fields<'_>, what: &str, faults: &mut Faults| {
        let at = fields.require("name", what, faults)?;
        if at.string(faults)?.is_empty() {
            faults.error(&at, format_args!("is empty; it must be {what}"));
        }
        Some(())
    };
    text(&fields, "the listener's name", faults);
    let config = fields.require("envoyConfig", "the CiliumEnvoyConfig with the listener", faults)?;
    let fields = config.fields(&["kind", "name"], faults)?;
    if let Some(at) = fields.given("kind", faults)
        && let Some(kind) = at.string(faults)
        && !["CiliumEnvoyConfig", "CiliumClusterwideEnvoyConfig"].contains(&kind)
    {
        faults.error(
            &at,
            format_args!("{kind:?} is no such kind; use CiliumEnvoyConfig or CiliumClusterwideEnvoyConfig"),
        );
    }
    text(&fields, "the object's name", faults)
}
