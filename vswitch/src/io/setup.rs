//! The instance's namespace, `penstock0` and the trunks: made when missing, adopted when there, removed when asked.
//!
//! The order is what makes it safe: the namespace routes nothing, programs are attached and maps filled before a link goes up,
//! so there is no moment at which a frame could take another way.

use super::bpf::{BpfError, Programs, TcProgram, XdpProgram};
use super::maps::{PortEntry, WORKERS_MAX};
use super::pins::detach_outside;
use ipnet::IpNet;
use penstock_api::instance::inside;
use penstock_api::message::gateway;
use penstock_api::{Instance, PortId, WorkerId};
use penstock_net::netns::Netns;
use penstock_net::route::{Link, Netlink, Route, VethSpec};
use penstock_net::{NetError, offload, sysctl};
use std::net::IpAddr;
use std::os::fd::AsFd;

#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("{0}")]
    Net(#[from] NetError),
    #[error("{0}")]
    Bpf(#[from] BpfError),
    #[error("cannot enter the namespace {0}: {1}; CAP_SYS_ADMIN is needed")]
    Enter(String, std::io::Error),
    #[error(
        "interface {0} exists and is not ours (its peer is not in namespace {1}); rename it or choose another instance name"
    )]
    NameTaken(String, String),
    #[error(
        "the namespace {0} exists and is not a switch's: it holds {1} and none of our interfaces; choose another instance name"
    )]
    NetnsTaken(String, String),
    #[error("cannot mount a bpf file system on /sys/fs/bpf: {0}; mount it by `mount -t bpf bpf /sys/fs/bpf`")]
    BpfMount(std::io::Error),
    #[error("{0} workers were asked for, {WORKERS_MAX} are possible")]
    TooManyWorkers(usize),
}

/// What is to be there.
#[derive(Debug, Clone)]
pub struct Plan {
    pub instance: Instance,
    pub workers: usize,
    pub mtu: u16,
    pub pod_ranges: Vec<IpNet>,
    /// See [`Programs::load`].
    pub tc_filters: bool,
}

/// What is there.
#[derive(Debug)]
pub struct Links {
    pub netns: Netns,
    /// Index: worker.
    pub trunks: Vec<Trunk>,
    /// Of the host's end of `penstock0`.
    pub host_mac: [u8; 6],
    /// The number of its inner end.
    pub host_inner: u32,
    /// Sentences for the operator: what is not as good as it could be.
    pub notes: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct Trunk {
    pub near: Link,
    pub far: Link,
    pub far_name: String,
    /// `native` or `generic`, and why not better.
    pub xdp: (&'static str, String),
}

/// The host's addresses on `penstock0`: the first of each pod range.
pub fn host_address_in(range: &IpNet) -> IpAddr {
    match range {
        IpNet::V4(net) => IpAddr::V4((u32::from(net.network()) + 1).into()),
        IpNet::V6(net) => IpAddr::V6((u128::from(net.network()) + 1).into()),
    }
}

/// Makes or adopts everything but the sockets. The caller's namespace is the host's.
pub fn ensure(plan: &Plan) -> Result<(Links, Programs), SetupError> {
    if plan.workers > WORKERS_MAX {
        return Err(SetupError::TooManyWorkers(plan.workers));
    }
    mount_bpf()?;
    let name = plan.instance.netns();
    let netns = if Netns::exists(name) { open_ours(name)? } else { Netns::create(name)? };
    let host_netns = Netns::current()?;
    let enter = |e| SetupError::Enter(name.to_owned(), e);
    let mut notes = Vec::new();

    let (mut programs, (host_mac, host_inner), trunks) = netns
        .run(|| -> Result<_, SetupError> {
            // Nothing here routes, and nothing here speaks IPv6 of its own accord.
            for path in ["net/ipv6/conf/all/disable_ipv6", "net/ipv6/conf/default/disable_ipv6"] {
                let _ = sysctl::set(path, "1");
            }
            for path in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
                let _ = sysctl::set(path, "0");
            }
            let netlink = Netlink::open()?;
            let mut programs = Programs::load(&plan.instance.bpf_dir(), plan.tc_filters)?;
            let host = ensure_host_link(plan, &netlink, &host_netns, &mut programs)?;
            let trunks = ensure_trunks(plan, &netlink, &mut programs)?;
            Ok((programs, host, trunks))
        })
        .map_err(enter)??;
    let near_ends: Vec<u32> = trunks.iter().map(|t| t.near.index).collect();
    programs.set_settings(&near_ends)?;
    configure_host(plan, &mut notes)?;
    if !programs.replaced().is_empty() {
        notes.push(format!(
            "kernel maps left by another version were of another shape ({}) and have been made anew: flows cross workers until they \
             are handed to the kernel again, and the kernel's counts begin anew",
            programs.replaced().join(", ")
        ));
    }
    if let Some(why) = programs.tcx_refused() {
        notes.push(format!(
            "tc programs are attached as filters, where every frame passes the classifiers' machinery, and not as TCX links, which \
             Linux 6.6 and newer have: {why}"
        ));
    }
    for trunk in &trunks {
        if trunk.xdp.0 != "native" {
            notes.push(format!("trunk {} runs XDP in {} mode: {}", trunk.far_name, trunk.xdp.0, trunk.xdp.1));
        }
    }
    Ok((Links { netns, trunks, host_mac, host_inner, notes }, programs))
}

/// Opens a namespace that may have been named by somebody else, a container's for instance. Ours is empty (we got no further) or
/// has one of the interfaces that are made first and go last.
fn open_ours(name: &str) -> Result<Netns, SetupError> {
    let netns = Netns::open(name)?;
    let links = Netlink::open_in(&netns)?.links()?;
    let names = || links.iter().map(|link| link.name.as_str()).filter(|name| *name != "lo");
    let first_made = [inside::HOST.to_owned(), inside::trunk_near(WorkerId(0))];
    match names().next() {
        Some(stranger) if !names().any(|name| first_made.iter().any(|ours| ours == name)) => {
            Err(SetupError::NetnsTaken(name.to_owned(), stranger.to_owned()))
        }
        _ => Ok(netns),
    }
}

fn mount_bpf() -> Result<(), SetupError> {
    use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
    let path = "/sys/fs/bpf";
    if statfs(path).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC) {
        return Ok(());
    }
    nix::mount::mount(Some("bpf"), path, Some("bpf"), nix::mount::MsFlags::empty(), None::<&str>)
        .map_err(|e| SetupError::BpfMount(e.into()))
}

/// The pair `penstock0` - `host0`: the outer end's address and the inner end's number. Runs inside the instance's namespace.
fn ensure_host_link(
    plan: &Plan,
    netlink: &Netlink,
    host_netns: &Netns,
    programs: &mut Programs,
) -> Result<([u8; 6], u32), SetupError> {
    let outer_name = plan.instance.host_interface();
    let outer =
        |name: &str| -> Result<Option<Link>, SetupError> { Ok(Netlink::open_in(host_netns)?.link(name)?) };
    let inner = match (netlink.link(inside::HOST)?, outer(&outer_name)?) {
        (Some(inner), Some(outer)) if inner.peer_index == Some(outer.index) => inner,
        (None, None) => netlink.create_veth(&VethSpec {
            mtu: plan.mtu.into(),
            peer_netns: Some(host_netns.as_fd()),
            ..VethSpec::new(inside::HOST, &outer_name)
        })?,
        (_, Some(_)) => return Err(SetupError::NameTaken(outer_name, plan.instance.netns().to_owned())),
        (Some(stale), None) => {
            // Its other end went with another namespace: this one leads nowhere.
            netlink.delete_link(stale.index)?;
            return ensure_host_link(plan, netlink, host_netns, programs);
        }
    };
    quiet(inside::HOST);
    netlink.set_mtu(inner.index, plan.mtu.into())?;
    let host_mac = outer(&outer_name)?.map(|link| link.mac).unwrap_or_default();
    let entry = PortEntry::new(inner.index, plan.mtu, host_mac, &[]).map_err(BpfError::Port)?;
    programs.set_port(PortId::HOST, entry)?;
    programs.attach_tc(TcProgram::Host, inside::HOST)?;
    netlink.set_up(inner.index, true)?;
    Ok((host_mac, inner.index))
}

/// One single-queue pair per worker. Runs inside the instance's namespace.
fn ensure_trunks(plan: &Plan, netlink: &Netlink, programs: &mut Programs) -> Result<Vec<Trunk>, SetupError> {
    programs.clear_queues();
    // Trunks of workers that are no more.
    for worker in plan.workers..WORKERS_MAX {
        if let Some(link) = netlink.link(&inside::trunk_near(WorkerId(worker as u8)))? {
            netlink.delete_link(link.index)?;
        }
    }
    let mut trunks = Vec::new();
    for worker in 0..plan.workers {
        let id = WorkerId(worker as u8);
        let (near_name, far_name) = (inside::trunk_near(id), inside::trunk_far(id));
        let pair = (netlink.link(&near_name)?, netlink.link(&far_name)?);
        let near = match pair {
            (Some(near), Some(far)) if near.mtu == u32::from(plan.mtu) && far.mtu == near.mtu => near,
            (near, _) => {
                if let Some(near) = near {
                    netlink.delete_link(near.index)?;
                }
                netlink.create_veth(&VethSpec {
                    mtu: plan.mtu.into(),
                    queues: Some((1, 1)),
                    peer_queues: Some((1, 1)),
                    ..VethSpec::new(&near_name, &far_name)
                })?
            }
        };
        let far = netlink.existing(&far_name)?;
        for name in [&near_name, &far_name] {
            quiet(name);
            // Checksums are completed and segments cut on the way in, whatever the pod offers; tags stay in the frame.
            for feature in ["tx", "txvlan", "tx-vlan-stag-hw-insert"] {
                offload::set(name, feature, false)?;
            }
        }
        // What a worker sends is merged again on its way to the pod. A kernel that cannot does without.
        let _ = offload::set(&near_name, "gro", true);
        programs.attach_tc(TcProgram::Trunk, &near_name)?;
        let xdp = programs.attach_xdp(XdpProgram::Trunk, &far_name, true)?;
        programs.set_queue(XdpProgram::Trunk, (far.index, 0), worker as u32)?;
        netlink.set_up(far.index, true)?;
        netlink.set_up(near.index, true)?;
        trunks.push(Trunk { near, far, far_name, xdp });
    }
    Ok(trunks)
}

/// The host's side: addresses, the way to the pods, and forwarding between them and the outside.
fn configure_host(plan: &Plan, notes: &mut Vec<String>) -> Result<(), SetupError> {
    let netlink = Netlink::open()?;
    let name = plan.instance.host_interface();
    let link = netlink.existing(&name)?;
    for (path, value) in [
        (format!("net/ipv6/conf/{name}/accept_ra"), "0"),
        (format!("net/ipv6/conf/{name}/accept_dad"), "0"),
        (format!("net/ipv6/conf/{name}/addr_gen_mode"), "0"),
        (format!("net/ipv4/conf/{name}/rp_filter"), "0"),
        (format!("net/ipv4/conf/{name}/send_redirects"), "0"),
        ("net/ipv4/ip_forward".to_owned(), "1"),
        ("net/ipv6/conf/all/forwarding".to_owned(), "1"),
    ] {
        if let Err(error) = sysctl::set(&path, value) {
            notes.push(format!("{error}; pods may not reach the outside"));
        }
    }
    netlink.set_mtu(link.index, plan.mtu.into())?;
    netlink.set_up(link.index, true)?;
    let ours = |result: Result<(), NetError>| match result {
        Err(error) if !error.is_exists() => Err(error),
        _ => Ok(()),
    };
    for range in &plan.pod_ranges {
        let address = host_address_in(range);
        let gateway: IpAddr = match range {
            IpNet::V4(_) => gateway::V4.into(),
            IpNet::V6(_) => gateway::V6.into(),
        };
        ours(netlink.add_address(link.index, IpNet::from(address), true))?;
        netlink.replace_neighbour(link.index, gateway, gateway::MAC.0, true)?;
        netlink.replace_route(&Route {
            gateway: Some(gateway),
            link: Some(link.index),
            onlink: true,
            source: Some(address),
            ..Route::to(range.trunc())
        })?;
    }
    Ok(())
}

/// No IPv6 chatter on an interface of ours. A kernel without IPv6 has none anyway.
fn quiet(interface: &str) {
    let _ = sysctl::set(&format!("net/ipv6/conf/{interface}/disable_ipv6"), "1");
}

/// Removes everything of an instance from the kernel. What is not there is fine. The caller's namespace is the host's.
pub fn remove(instance: &Instance) -> Result<(), SetupError> {
    let netlink = Netlink::open()?;
    let name = instance.netns();
    if Netns::exists(name) {
        let netns = open_ours(name)?;
        // Host ends first: deleting a namespace deletes its veths a moment later, deleting a link deletes both ends now.
        netns
            .run(|| -> Result<(), NetError> {
                let inside = Netlink::open()?;
                let mut links = inside.links()?;
                // Last what says that the namespace is ours, should we be interrupted.
                links.sort_by_key(|link| link.name == inside::HOST);
                for link in links {
                    if link.name != "lo"
                        && let Err(error) = inside.delete_link(link.index)
                        && !error.is_not_found()
                    {
                        return Err(error);
                    }
                }
                Ok(())
            })
            .map_err(|e| SetupError::Enter(name.to_owned(), e))??;
        Netns::delete(name)?;
    }
    // It went with its inner end, unless the namespace's name was taken away by somebody else. Then it is ours only if it
    // knows our gateway: the name alone may be a stranger's.
    if let Some(link) = netlink.link(&instance.host_interface())?
        && netlink.neighbours(link.index)?.iter().any(|neighbour| neighbour.mac == Some(gateway::MAC.0))
    {
        netlink.delete_link(link.index)?;
    }
    let pins = instance.bpf_dir();
    if pins.exists() {
        detach_outside(&pins, &[]);
        let _ = std::fs::remove_dir_all(&pins);
    }
    if let Some(parent) = pins.parent() {
        // The last instance takes the common directory along.
        let _ = std::fs::remove_dir(parent);
    }
    Ok(())
}
