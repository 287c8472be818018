//! Framing of the control socket: a 32-bit big-endian length, then that many bytes of JSON.
//!
//! JSON, because both ends may be of different versions and a person may have to read it; the length, because an artefact
//! is large and a reader must know when it is complete. Lengths above [`FRAME_MAX`] are refused before anything is allocated.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, Read, Write};

/// The longest message, in bytes: an artefact of 100,000 pods fits several times.
pub const FRAME_MAX: usize = 256 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("the other side closed the connection")]
    Closed,
    #[error("a message of {0} bytes exceeds the limit of {FRAME_MAX}")]
    TooLong(usize),
    #[error("the message does not fit this version of the protocol: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("the control socket failed: {0}")]
    Io(#[from] io::Error),
}

/// Writes one message.
pub fn send<T: Serialize>(to: &mut impl Write, message: &T) -> Result<(), WireError> {
    let body = serde_json::to_vec(message)?;
    if body.len() > FRAME_MAX {
        return Err(WireError::TooLong(body.len()));
    }
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend_from_slice(&(body.len() as u32).to_be_bytes());
    frame.extend_from_slice(&body);
    to.write_all(&frame)?;
    to.flush()?;
    Ok(())
}

/// Reads one message. [`WireError::Closed`] only between messages; in the middle of one it is an I/O error.
pub fn receive<T: DeserializeOwned>(from: &mut impl Read) -> Result<T, WireError> {
    let mut len = [0u8; 4];
    let mut have = 0;
    while have < len.len() {
        match from.read(&mut len[have..]) {
            Ok(0) if have == 0 => return Err(WireError::Closed),
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(n) => have += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    let len = u32::from_be_bytes(len) as usize;
    if len > FRAME_MAX {
        return Err(WireError::TooLong(len));
    }
    // Grows as bytes arrive: a length alone must not make us allocate.
    let mut body = Vec::new();
    from.take(len as u64).read_to_end(&mut body)?;
    if body.len() < len {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(serde_json::from_slice(&body)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_the_wire_and_a_torn_one_is_an_error() {
        let mut bytes = Vec::new();
        send(&mut bytes, &vec!["a", "b"]).unwrap();
        assert_eq!(receive::<Vec<String>>(&mut bytes.as_slice()).unwrap(), ["a", "b"]);
        for cut in 1..bytes.len() {
            assert!(
                matches!(receive::<Vec<String>>(&mut &bytes[..cut]), Err(WireError::Io(_))),
                "cut at {cut}"
            );
        }
        assert!(matches!(receive::<Vec<String>>(&mut [].as_slice()), Err(WireError::Closed)));
        assert!(matches!(receive::<Vec<String>>(&mut [255u8; 8].as_slice()), Err(WireError::TooLong(_))));
    }
}
