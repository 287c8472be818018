//! What is measured: a way from one pod to another, that runs only in its turn.

pub(crate) mod bridge;
pub(crate) mod child;
pub(crate) mod direct;
pub(crate) mod ground;
pub(crate) mod ours;
pub(crate) mod ovs;
pub(crate) mod testpmd;

use anyhow::Result;
use penstock_lab::Place;

pub(crate) trait Subject {
    fn name(&self) -> &'static str;
    /// Versions and settings, for the reader who wants to repeat it.
    fn describe(&self) -> String;
    /// Sender and receiver.
    fn places(&self) -> [&Place; 2];
    /// Where the sender's frames go.
    fn next_hop(&self) -> [u8; 6];
    /// The program that polls without end, if there is one.
    fn process(&self) -> Option<u32>;
    /// It runs only in its turn.
    fn set_running(&self, running: bool) -> Result<()> {
        self.process().map_or(Ok(()), |process| child::set_running(process, running))
    }
    /// Frames it dropped since it was last asked, by what it calls the reason.
    fn drops(&mut self) -> String {
        String::new()
    }
}
