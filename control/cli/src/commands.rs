//! One module per command.

pub(crate) mod capture;
pub(crate) mod down;
pub(crate) mod drops;
pub(crate) mod flows;
pub(crate) mod pod;
pub(crate) mod policy;
pub(crate) mod ports;
pub(crate) mod stages;
pub(crate) mod status;
pub(crate) mod up;
