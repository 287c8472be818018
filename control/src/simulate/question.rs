//! What is asked of the far end: a protocol and a port, or a kind of ICMP message.

use penstock_api::artefact::protocol;
use penstock_api::reference::Question;
use std::fmt;
use std::str::FromStr;

/// A protocol and, where it has one, a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Service {
    /// IP protocol number.
    protocol: u8,
    /// Destination port, or ICMP type.
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    #[error("protocol {0:?} is not one of TCP, UDP, SCTP, ICMP and ICMPv6")]
    Protocol(String),
    #[error("port is missing; {0} has ports from 1 to 65535")]
    NoPort(&'static str),
    #[error("port {port} is not one of {protocol}, which go from 1 to 65535")]
    Port { protocol: &'static str, port: u64 },
    #[error("port {port} is no type of {protocol}, which go up to 255; leave it out for an echo request")]
    Type { protocol: &'static str, port: u64 },
    #[error("{0:?} is not PORT/PROTOCOL as 80/TCP, nor ICMP or ICMPv6")]
    Text(String),
}

impl Service {
    /// `port` of ICMP and ICMPv6 is the type; without one, or with 0 (which opens nothing), an echo request.
    ///
    /// # Errors
    /// When there is no such service.
    pub fn new(protocol: &str, port: Option<u64>) -> Result<Service, ServiceError> {
        let number = match protocol.to_ascii_uppercase().as_str() {
            "TCP" => protocol::TCP,
            "UDP" => protocol::UDP,
            "SCTP" => protocol::SCTP,
            "ICMP" => protocol::ICMP,
            "ICMPV6" => protocol::ICMPV6,
            _ => return Err(ServiceError::Protocol(protocol.to_owned())),
        };
        let protocol = name(number);
        let port = match (number, port) {
            (protocol::ICMP, None | Some(0)) => 8,
            (protocol::ICMPV6, None | Some(0)) => 128,
            (protocol::ICMP | protocol::ICMPV6, Some(port)) => {
                u8::try_from(port).map_err(|_| ServiceError::Type { protocol, port })?.into()
            }
            (_, None) => return Err(ServiceError::NoPort(protocol)),
            (_, Some(port)) => match u16::try_from(port) {
                Ok(port) if port > 0 => port,
                _ => return Err(ServiceError::Port { protocol, port }),
            },
        };
        Ok(Service { protocol: number, port })
    }

    #[must_use]
    pub fn protocol(&self) -> u8 {
        self.protocol
    }

    #[must_use]
    pub fn protocol_name(&self) -> &'static str {
        name(self.protocol)
    }

    /// Destination port, or ICMP type.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    #[must_use]
    pub fn is_icmp(&self) -> bool {
        matches!(self.protocol, protocol::ICMP | protocol::ICMPV6)
    }

    #[must_use]
    pub fn is_echo(&self) -> bool {
        matches!((self.protocol, self.port), (protocol::ICMP, 8) | (protocol::ICMPV6, 128))
    }

    pub(super) fn is_icmpv6(&self) -> bool {
        self.protocol == protocol::ICMPV6
    }

    /// As policy is asked about a new connection.
    #[must_use]
    pub fn question(&self) -> Question {
        Question { protocol: self.protocol, port: self.port, established: false }
    }
}

fn name(protocol: u8) -> &'static str {
    match protocol {
        protocol::TCP => "TCP",
        protocol::UDP => "UDP",
        protocol::SCTP => "SCTP",
        protocol::ICMP => "ICMP",
        _ => "ICMPv6",
    }
}

impl FromStr for Service {
    type Err = ServiceError;

    /// `80/TCP`; `ICMP` for an echo request, `13/ICMP` for another type.
    fn from_str(text: &str) -> Result<Service, ServiceError> {
        let wrong = || ServiceError::Text(text.to_owned());
        let service = match text.split_once('/') {
            Some((port, protocol)) => Service::new(protocol, Some(port.parse().map_err(|_| wrong())?))?,
            None => Service::new(text, None).map_err(|_| wrong())?,
        };
        Ok(service)
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_echo() {
            true => f.write_str(self.protocol_name()),
            false => write!(f, "{}/{}", self.port, self.protocol_name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_written_as_it_is_read() {
        for text in ["80/TCP", "53/UDP", "7777/SCTP", "ICMP", "ICMPv6", "13/ICMP"] {
            assert_eq!(text.parse::<Service>().unwrap().to_string(), text);
        }
        assert_eq!("8/icmp".parse::<Service>().unwrap(), "ICMP".parse().unwrap());
    }

    #[test]
    fn a_service_that_cannot_be_is_refused() {
        for text in ["TCP", "80", "0/TCP", "65536/TCP", "80/IP", "-1/TCP", "256/ICMP", "http/TCP", ""] {
            assert!(text.parse::<Service>().is_err(), "{text}");
        }
    }
}
