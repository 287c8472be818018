//! Network namespaces: the named ones of `ip netns`, and running code inside one.
//!
//! A namespace with a name is a bind mount of its handle on `/run/netns/NAME`. The steps are those of `ip netns add`, its
//! lock included, so the two may be mixed freely. Being inside a namespace is a property of a thread: [`Netns::run`] uses a
//! thread of its own, so the caller's never changes and a panic cannot strand it in the wrong place.

use crate::NetError;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{FsType, fstatfs};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;

/// Where named namespaces live.
pub const NETNS_DIR: &str = "/run/netns";

/// The magic of the file system that namespace handles live on (`include/uapi/linux/magic.h`).
const NSFS_MAGIC: FsType = FsType(libc::NSFS_MAGIC as _);

/// An open network namespace: it lives at least as long as this value.
#[derive(Debug)]
pub struct Netns {
    handle: File,
    path: PathBuf,
    name: Option<String>,
}

impl Netns {
    /// Makes a namespace with a name; loopback in it is down. [`NetError::is_exists`] when the name is taken.
    pub fn create(name: &str) -> Result<Netns, NetError> {
        const OPERATION: &str = "create the network namespace";
        let fail = |error: &io::Error| NetError::io(OPERATION, name, error);
        let path = path_of(OPERATION, name)?;

        let lock = prepare_directory().map_err(|e| fail(&e))?;
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o444).open(&path).map_err(|e| {
            match e.kind() {
                io::ErrorKind::AlreadyExists => NetError::refused(
                    OPERATION,
                    name,
                    libc::EEXIST,
                    format!("{} exists already", path.display()),
                ),
                _ => fail(&e),
            }
        })?;
        // The new namespace is the helper thread's; the mount is what keeps it alive after that thread.
        let made = on_helper_thread(|| -> io::Result<()> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            mount(Some("/proc/thread-self/ns/net"), &path, Some("none"), MsFlags::MS_BIND, None::<&str>)?;
            Ok(())
        })
        .and_then(|made| made);
        drop(lock);
        match made.map_err(|e| fail(&e)).and_then(|()| Netns::open(name)) {
            Ok(netns) => Ok(netns),
            Err(error) => {
                let _ = umount2(&path, MntFlags::MNT_DETACH);
                let _ = fs::remove_file(&path);
                Err(error)
            }
        }
    }

    /// Opens a namespace by its name. [`NetError::is_not_found`] when there is none.
    pub fn open(name: &str) -> Result<Netns, NetError> {
        let path = path_of("open the network namespace", name)?;
        Ok(Netns { name: Some(name.to_owned()), ..Netns::open_path(path)? })
    }

    /// Opens a namespace by the path of its handle, as `/proc/1234/ns/net` or what a container runtime gives.
    pub fn open_path(path: impl Into<PathBuf>) -> Result<Netns, NetError> {
        const OPERATION: &str = "open the network namespace";
        let path = path.into();
        let shown = path.display().to_string();
        let handle = File::open(&path).map_err(|e| NetError::io(OPERATION, &shown, &e))?;
        let kind =
            fstatfs(&handle).map_err(|e| NetError::io(OPERATION, &shown, &e.into()))?.filesystem_type();
        if kind != NSFS_MAGIC {
            return Err(NetError::refused(
                OPERATION,
                shown,
                libc::EINVAL,
                "the file is not a namespace (nothing is mounted there; remove it if it is left over)",
            ));
        }
        Ok(Netns { handle, path, name: None })
    }

    /// The namespace of the calling thread.
    pub fn current() -> Result<Netns, NetError> {
        Netns::open_path("/proc/thread-self/ns/net")
    }

    /// Is the name taken? Also true for a file that was left behind without its namespace.
    pub fn exists(name: &str) -> bool {
        path_of("look for the network namespace", name).is_ok_and(|path| path.symlink_metadata().is_ok())
    }

    /// Takes a namespace's name away. The namespace goes when nobody uses it any more, and its interfaces with it.
    pub fn delete(name: &str) -> Result<(), NetError> {
        const OPERATION: &str = "delete the network namespace";
        let path = path_of(OPERATION, name)?;
        match umount2(&path, MntFlags::MNT_DETACH) {
            // EINVAL: not a mount point, only the file is left.
            Ok(()) | Err(Errno::EINVAL) => {}
            Err(errno) => return Err(NetError::io(OPERATION, name, &errno.into())),
        }
        fs::remove_file(&path).map_err(|e| NetError::io(OPERATION, name, &e))
    }

    /// Where its handle is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its name, where it was opened by one.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Are these two the same namespace, whatever they are called?
    pub fn is_same(&self, other: &Netns) -> io::Result<bool> {
        let (mine, theirs) = (self.handle.metadata()?, other.handle.metadata()?);
        Ok((mine.dev(), mine.ino()) == (theirs.dev(), theirs.ino()))
    }

    /// Runs `f` on a thread that is inside the namespace, and waits for it. A panic of `f` goes on in the caller.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_helper_thread(|| self.enter_current_thread().map(|()| f())).and_then(|result| result)
    }

    /// Moves the calling thread into the namespace, for good. For threads whose life is there; never call it on a thread
    /// that others lend you work on.
    pub fn enter_current_thread(&self) -> io::Result<()> {
        setns(&self.handle, CloneFlags::CLONE_NEWNET)?;
        Ok(())
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

/// Runs `f` on a thread of its own; what that thread does to itself ends with it.
fn on_helper_thread<T: Send>(f: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let helper = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, f)?;
        helper.join().map_or_else(|panic| std::panic::resume_unwind(panic), Ok)
    })
}

/// The path of a name, if it can be one.
fn path_of(operation: &'static str, name: &str) -> Result<PathBuf, NetError> {
    let good =
        !name.is_empty() && name.len() <= 255 && name != "." && name != ".." && !name.contains(['/', '\0']);
    if good {
        Ok(Path::new(NETNS_DIR).join(name))
    } else {
        Err(NetError::refused(
            operation,
            format!("{name:?}"),
            libc::EINVAL,
            "that cannot be a namespace's name",
        ))
    }
}

/// Makes `/run/netns` and makes it a shared mount, so that a name taken away here is taken away in every mount namespace.
/// The returned lock is the one `ip netns add` takes for the same purpose.
fn prepare_directory() -> io::Result<Flock<File>> {
    match fs::DirBuilder::new().mode(0o755).create(NETNS_DIR) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let lock = Flock::lock(File::open(NETNS_DIR)?, FlockArg::LockExclusive)
        .map_err(|(_, errno)| io::Error::from(errno))?;
    let share =
        || mount(None::<&str>, NETNS_DIR, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    match share() {
        Ok(()) => {}
        // Not a mount point yet.
        Err(Errno::EINVAL) => {
            let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount(Some(NETNS_DIR), NETNS_DIR, None::<&str>, bind, None::<&str>)?;
            share()?;
        }
        Err(errno) => return Err(errno.into()),
    }
    Ok(lock)
}
