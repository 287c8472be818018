//! The one error of this crate: what was attempted, on what, and why the kernel said no.

use std::io;

/// An operation on the kernel's networking that failed. Nothing of that operation was done.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot {operation} {object}: {reason}")]
pub struct NetError {
    operation: &'static str,
    object: String,
    reason: String,
    errno: Option<i32>,
}

impl NetError {
    /// An error of the kernel.
    pub(crate) fn io(operation: &'static str, object: impl Into<String>, error: &io::Error) -> Self {
        let errno = error.raw_os_error();
        NetError { operation, object: object.into(), reason: error.to_string(), errno }
    }

    /// An error of the kernel about which it said more than a number.
    pub(crate) fn kernel(
        operation: &'static str,
        object: impl Into<String>,
        errno: i32,
        said: Option<String>,
    ) -> Self {
        let error = io::Error::from_raw_os_error(errno);
        let reason = match said {
            Some(said) => format!("{error}: {said}"),
            None => error.to_string(),
        };
        NetError { operation, object: object.into(), reason, errno: Some(errno) }
    }

    /// A refusal of our own, with the errno the kernel would have used.
    pub(crate) fn refused(
        operation: &'static str,
        object: impl Into<String>,
        errno: i32,
        reason: impl Into<String>,
    ) -> Self {
        NetError { operation, object: object.into(), reason: reason.into(), errno: Some(errno) }
    }

    /// [`Netns::run`](crate::Netns::run) did not get into the namespace.
    pub fn entering(netns: &crate::Netns, error: &io::Error) -> Self {
        NetError::io("enter the network namespace", netns.path().display().to_string(), error)
    }

    /// What was attempted, as `create the link`.
    pub fn operation(&self) -> &str {
        self.operation
    }

    /// On what: a name, an index, an address.
    pub fn object(&self) -> &str {
        &self.object
    }

    /// The kernel's error number, where there is one.
    pub fn errno(&self) -> Option<i32> {
        self.errno
    }

    /// The object is there already, or its name is taken.
    pub fn is_exists(&self) -> bool {
        self.errno == Some(libc::EEXIST)
    }

    /// The object, or the device or address it needs, is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(
            self.errno,
            Some(libc::ENOENT | libc::ENODEV | libc::ESRCH | libc::EADDRNOTAVAIL | libc::ENXIO)
        )
    }

    /// The caller lacks a capability (`CAP_NET_ADMIN`, `CAP_SYS_ADMIN`).
    pub fn is_permission(&self) -> bool {
        matches!(self.errno, Some(libc::EPERM | libc::EACCES))
    }
}

impl From<NetError> for io::Error {
    fn from(error: NetError) -> io::Error {
        let kind = error.errno.map_or(io::ErrorKind::Other, |n| io::Error::from_raw_os_error(n).kind());
        io::Error::new(kind, error)
    }
}
