//! A pod: a place that was attached by the CNI plugin.

use crate::cni::CniCall;
use crate::place::Place;
use std::ops::Deref;
use std::time::Duration;

/// Probes and servers are those of its [`Place`]. Dropping it ends its servers; it stays attached until
/// [`Lab::detach`](crate::Lab::detach) or the end of the laboratory.
#[derive(Debug)]
pub struct Pod {
    pub(crate) place: Place,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) add: CniCall,
    pub(crate) result: serde_json::Value,
    pub(crate) attach_time: Duration,
}

impl Pod {
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The pod's name without its namespace; [`Place::name`] has both.
    pub fn pod_name(&self) -> &str {
        &self.name
    }

    /// The call that attached it, to be repeated or bent.
    pub fn cni_call(&self) -> &CniCall {
        &self.add
    }

    /// What the plugin answered to `ADD`.
    pub fn cni_result(&self) -> &serde_json::Value {
        &self.result
    }

    /// How long the plugin took to attach it, until policy was live for it.
    pub fn attach_time(&self) -> Duration {
        self.attach_time
    }
}

impl Deref for Pod {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}
