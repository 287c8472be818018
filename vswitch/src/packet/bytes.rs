//! Reading and writing big-endian fields without the possibility of a panic.
//!
//! smoltcp's views want the whole packet in one slice and answer with one error for everything. Here a jumbo frame goes on
//! in other buffers and every refusal has its own reason, so headers are read as fixed-size arrays: the length check is
//! the conversion, and after it every index is a constant the compiler checks.

/// `N` bytes from `at`, or `None` when they are not all there.
#[inline]
pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<&[u8; N]> {
    bytes.get(at..)?.first_chunk()
}

/// The 16-bit field of a header at a constant offset.
#[inline]
pub(super) fn u16_at<const N: usize>(header: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes([header[at], header[at + 1]])
}

/// The 32-bit field of a header at a constant offset.
#[inline]
pub(super) fn u32_at<const N: usize>(header: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

/// A field of `M` bytes of a header at a constant offset.
#[inline]
pub(super) fn field<const M: usize, const N: usize>(header: &[u8; N], at: usize) -> [u8; M] {
    let mut out = [0; M];
    out.copy_from_slice(&header[at..at + M]);
    out
}
