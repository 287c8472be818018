//! What names, labels, port names and CIDRs may look like: the API server's rules, each with the sentence for those who
//! break it.

use ipnet::IpNet;
use std::net::IpAddr;

type Checked = Result<(), String>;

/// RFC 1123 label: namespaces.
pub(crate) fn dns_label(name: &str) -> Checked {
    let good = (1..=63).contains(&name.len()) && is_label(name);
    if good {
        return Ok(());
    }
    Err(format!(
        "{name:?} is no valid name: use 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit{}",
        lower_case_hint(name)
    ))
}

/// RFC 1123 subdomain: most objects.
pub(crate) fn dns_subdomain(name: &str) -> Checked {
    let good = (1..=253).contains(&name.len()) && name.split('.').all(is_label);
    if good {
        return Ok(());
    }
    Err(format!(
        "{name:?} is no valid name: use up to 253 of a-z, 0-9, '-' and '.', every part beginning and ending with a letter or \
         digit{}",
        lower_case_hint(name)
    ))
}

fn is_label(label: &str) -> bool {
    let bytes = label.as_bytes();
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    !bytes.is_empty()
        && bytes.iter().all(inner)
        && bytes.first() != Some(&b'-')
        && bytes.last() != Some(&b'-')
}

fn lower_case_hint(name: &str) -> String {
    match name.chars().any(char::is_uppercase) {
        true => format!(" (perhaps {:?})", name.to_lowercase()),
        false => String::new(),
    }
}

pub(crate) fn label_key(key: &str) -> Checked {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if prefix.is_some_and(|prefix| dns_subdomain(prefix).is_err()) {
        return Err(format!(
            "{key:?} is no label key: what stands before '/' must be a DNS name in lower case"
        ));
    }
    if name.is_empty() || !is_label_word(name) {
        return Err(format!(
            "{key:?} is no label key: the name must be 1 to 63 of a-z, A-Z, 0-9, '-', '_' and '.', beginning and ending with \
             a letter or digit"
        ));
    }
    Ok(())
}

pub(crate) fn label_value(value: &str) -> Checked {
    if value.is_empty() || is_label_word(value) {
        return Ok(());
    }
    Err(format!(
        "{value:?} is no label value: use up to 63 of a-z, A-Z, 0-9, '-', '_' and '.', beginning and ending with a letter or \
         digit"
    ))
}

fn is_label_word(word: &str) -> bool {
    let bytes = word.as_bytes();
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

/// IANA service name: up to 15 characters, at least one letter.
pub(crate) fn port_name(name: &str) -> Checked {
    let good = (1..=15).contains(&name.len())
        && is_label(name)
        && !name.contains("--")
        && name.bytes().any(|b| b.is_ascii_lowercase());
    if good {
        return Ok(());
    }
    Err(match name.parse::<u16>() {
        Ok(_) => format!("{name:?} in quotes is a port's name, not its number; write {name} without quotes"),
        Err(_) => format!(
            "{name:?} is no port name: use 1 to 15 of a-z, 0-9 and '-', with at least one letter, no '--', beginning and \
             ending with a letter or digit"
        ),
    })
}

/// A CIDR, its host bits cleared. The second value says whether there were any.
pub(crate) fn cidr(text: &str) -> Result<(IpNet, bool), String> {
    let explain = |why: &str| format!("{text:?} is no CIDR: {why}; write it like 10.0.0.0/8 or fd00::/8");
    let Some((address, length)) = text.split_once('/') else {
        return Err(explain("the prefix length is missing"));
    };
    let address = ip(address).map_err(|_| explain("the address is wrong"))?;
    let length: u8 = match length.parse() {
        Ok(number) if u8::to_string(&number) == length => number,
        _ => return Err(explain("the prefix length is wrong")),
    };
    let net = IpNet::new(address, length).map_err(|_| explain("the prefix length is too long"))?;
    let masked = net.trunc();
    Ok((masked, masked.addr() != address))
}

/// An address. IPv4 in IPv6's clothes is refused: it would be compared with IPv6 packets, which never carry it.
pub(crate) fn ip(text: &str) -> Result<IpAddr, String> {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
            Err(format!("{text:?} is an IPv4 address written as IPv6; write it as IPv4"))
        }
        Ok(address) => Ok(address),
        Err(_) => Err(format!("{text:?} is no IP address")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_servers_rules_hold() {
        for good in ["a", "networking/allow-db-access", "a.b/c_D.e-f", "kubernetes.io/metadata.name"] {
            assert_eq!(label_key(good), Ok(()));
        }
        for bad in ["", "/a", "a/", "A.b/c", "a/b/c", "-a", "a-", "a b", &"a".repeat(64)] {
            assert!(label_key(bad).is_err(), "{bad:?}");
        }
        assert!(label_value("").is_ok() && label_value("N1").is_ok());
        assert!(label_value("a/b").is_err() && label_value("a_").is_err());
        assert!(dns_label("n2").is_ok() && dns_label("N2").is_err() && dns_label("a.b").is_err());
        assert!(dns_subdomain("a.b").is_ok() && dns_subdomain("a..b").is_err());
        assert!(port_name("serve-80-tcp").is_ok() && port_name("80").is_err() && port_name("a--b").is_err());
    }

    #[test]
    fn host_bits_are_cleared_and_nonsense_is_refused() {
        assert_eq!(cidr("10.1.2.3/8"), Ok(("10.0.0.0/8".parse().unwrap(), true)));
        assert_eq!(cidr("::/0"), Ok(("::/0".parse().unwrap(), false)));
        for bad in [
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0/8",
            "010.0.0.0/8",
            "::ffff:1.2.3.4/120",
            "10.0.0.0/08",
            "x/8",
            "10.0.0.0/+8",
        ] {
            assert!(cidr(bad).is_err(), "{bad}");
        }
    }
}
